"""Hand a trained student to other programs: a folder for timm, or an ONNX file.

    python -m student.export --checkpoint runs/student --out export/ --format timm
    python -m student.export --checkpoint runs/student --out export/ --format onnx

Both may be written to one folder.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from pipeline.commands.command import command
from pipeline.durable.file import write_json
from student.checkpoints.flags import checkpoint_options, crop_option
from student.checkpoints.trained import open_saved
from student.exporting.export_folder import PREPROCESSING, placed
from student.exporting.onnx_graph import write_onnx
from student.exporting.preprocessing import description
from student.exporting.timm_folder import HEADS, write_timm

log = logging.getLogger("student.export")


@command()
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
    with placed(out) as folder:
        if flags["kind"] == "onnx":
            path, difference = write_onnx(student, folder, prepared, head)
            log.info("ONNX Runtime and PyTorch differ by at most %.2g in a logit", difference)
            answers = "logits, class_logits, distillation_logits" if student.two_heads else "logits"
            last = f"{out / path.name}: {answers}"
        else:
            difference = write_timm(student, folder, prepared, head)
            log.info("timm loads it, and its logits differ by at most %.2g", difference)
            last = f'{out}: timm.create_model("local-dir:{out}", pretrained=True)'
        write_json(folder / PREPROCESSING, prepared)
    click.echo(last)


if __name__ == "__main__":
    main()
