"""Hand a trained student to other programs: a folder for timm, or an ONNX file.

    python -m student.export --checkpoint runs/student --out export/ --format timm
    python -m student.export --checkpoint runs/student --out export/ --format onnx

Both may be written to one folder, with a README.md that says who this is; ``student.push`` puts it on a hub.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import click

from pipeline.commands.class_flags import read_class_list
from pipeline.commands.command import command
from pipeline.commands.places import InputPath, OutputFolder
from pipeline.durable.file import write_json
from pipeline.errors import MismatchError, require_packages
from pipeline.shards.truth import brief
from student.checkpoints.flags import checkpoint_options, crop_option
from student.checkpoints.trained import Saved, open_saved
from student.exporting.export_folder import PREPROCESSING, placed
from student.exporting.model_card import accuracy, write_card
from student.exporting.onnx_graph import write_onnx
from student.exporting.preprocessing import description
from student.exporting.timm_folder import HEADS, write_timm

log = logging.getLogger("student.export")
TOLD = 0.01
"""Of the validation pictures: by so much more another head must name for it to be said"""


@command()
@checkpoint_options
@click.option("--out", type=OutputFolder(file_okay=False), default=Path("export"), help="Folder to write to.")
@click.option(
    "--format", "kind", type=click.Choice(["timm", "onnx"]), default="timm", help="A timm folder, or one ONNX file."
)
@click.option("--ema", is_flag=True, help="Export the moving average of the weights.")
@click.option(
    "--classes",
    type=InputPath(),
    help="Names of the classes, where the student has none: classes.json, or a text file with one a line.",
)
@click.option("--head", type=click.Choice(HEADS), default="fused", help="Which answer becomes `logits`.")
@crop_option
def main(
    checkpoint: Path,
    which: str,
    out: Path,
    kind: str,
    ema: bool,
    classes: Path | None,
    head: str,
    crop_pct: float | None,
) -> None:
    """Write a trained student for other programs, and check that it answers the same there.

    \b
    Example:
      python -m student.export --checkpoint runs/student --out export/ --format onnx
    """
    if kind == "onnx":
        require_packages("--format onnx", "onnx", "onnxscript", "onnxruntime", extra="export")
    saved = _named(open_saved(checkpoint, which), classes)
    student, prepared = saved.weights(ema), description(saved, crop_pct)
    with placed(out, saved, head=head, ema=ema) as folder:
        if kind == "onnx":
            path, difference = write_onnx(student, folder, prepared, head)
            log.info("ONNX Runtime and PyTorch differ by at most %.2g in a logit", difference)
            answers = "logits, class_logits, distillation_logits" if student.two_heads else "logits"
            last = f"{out / path.name}: {answers}"
        else:
            difference = write_timm(student, folder, prepared, head)
            log.info("timm loads it, and its logits differ by at most %.2g", difference)
            last = f'{out}: timm.create_model("local-dir:{out}", pretrained=True)'
        write_json(folder / PREPROCESSING, prepared)
    write_card(out, saved, head=head, ema=ema)
    _tell_of_a_better_head(saved, head, ema)
    click.echo(last)


def _tell_of_a_better_head(saved: Saved, head: str, ema: bool) -> None:
    """A student whose one head was clearly ahead, as after long trainings with soft labels."""
    found = {name.replace("both together", "fused"): value for name, value in accuracy(saved, ema=ema).items()}
    best = max(found, key=found.__getitem__, default=head)
    if found.get(best, 0.0) - found.get(head, 1.0) > TOLD:
        log.warning(
            "--head %s names %.1f %% of the run's validation pictures, %s %.1f %%: --head %s exports that answer",
            head, 100 * found[head], best, 100 * found[best], best,
        )  # fmt: skip


def _named(saved: Saved, classes: Path | None) -> Saved:
    """The student with the names of its classes, where anybody knows them."""
    if classes is None:
        if saved.class_names is None:
            log.warning(
                "the student learned from shards that name no classes: class_names is null in what is written. "
                "--classes FILE gives them"
            )
        return saved
    names = read_class_list(classes)
    if saved.class_names not in (None, names):
        raise MismatchError(
            f"--classes {classes} names {brief(names)}, the student learned {brief(saved.class_names or ())}. Leave "
            "--classes out: the student knows its own."
        )
    if len(names) != saved.spec.num_classes:
        raise MismatchError(
            f"--classes {classes} names {brief(names)}, the student has {saved.spec.num_classes} classes. Name each."
        )
    return dataclasses.replace(saved, class_names=names)


if __name__ == "__main__":
    main()
