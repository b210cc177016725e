"""Hand a trained student to other programs: a folder for timm, or an ONNX file.

    python -m student.export --checkpoint runs/student --out export/ --format timm
    python -m student.export --checkpoint runs/student --out export/ --format onnx

Both may be written to one folder.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import click
import torch

from pipeline import cli
from pipeline.errors import StudentError
from student.checkpoint_flags import checkpoint_options, crop_option
from student.files import write_json
from student.model import Student
from student.onnx_graph import write_onnx
from student.preprocessing import description
from student.saved import open_saved
from student.timm_folder import HEADS, read_timm, write_timm

log = logging.getLogger("student.export")


@cli.command()
@checkpoint_options
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("export"), help="Folder to write to."
)
@click.option(
    "--format", "kind", type=click.Choice(["timm", "onnx"]), default="timm", help="A timm folder, or one ONNX file."
)
@click.option("--ema", is_flag=True, help="Export the moving average of the weights.")
@click.option("--head", type=click.Choice(HEADS), default="fused", help="Which answer becomes `logits`.")
@crop_option
def main(**flags: Any) -> None:
    """Write a trained student for other programs, and check that it answers the same there.

    \b
    Example:
      python -m student.export --checkpoint runs/student --out export/ --format onnx
    """
    saved = open_saved(flags["checkpoint"], flags["which"])
    student, out, head = saved.weights(flags["ema"]), flags["out"], flags["head"]
    prepared = description(saved, flags["crop_pct"])
    if flags["kind"] == "onnx":
        path, difference = write_onnx(student, out, prepared, head)
        log.info("ONNX Runtime and PyTorch differ by at most %.2g in a logit", difference)
        last = f"{path}: {'logits, class_logits, distillation_logits' if student.two_heads else 'logits'}"
    else:
        write_timm(student, out, prepared, head)
        _require_same_answers(student, out, head)
        last = f'{out}: timm.create_model("local-dir:{out}", pretrained=True)'
    write_json(out / "preprocessing.json", prepared)
    click.echo(last)


def _require_same_answers(student: Student, out: Path, head: str) -> None:
    size = student.spec.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        heads = student(images)
        ours = {"fused": student.fused(heads), "class": heads.cls, "distillation": heads.dist}[head]
        theirs = cast(torch.Tensor, read_timm(out)(images))
    assert ours is not None
    difference = (ours - theirs).abs().max().item()
    log.info("timm loads it, and its logits differ by at most %.2g", difference)
    if not difference <= 1e-5:
        raise StudentError(
            f"timm's logits differ from the student's by {difference:.3g}. Use the timm that trained it."
        )


if __name__ == "__main__":
    main()
