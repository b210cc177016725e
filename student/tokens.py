"""Look at the class and the distillation token of a trained student: how alike are they after each block?

python -m student.tokens --checkpoint runs/student --shards 'data/val/*.tar' --out tokens.json --plot tokens.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.commands.command import command
from pipeline.commands.places import ResultFile
from pipeline.commands.speed_flags import Speed, shards_option, speed_options
from pipeline.durable.file import write_json
from pipeline.errors import require_packages
from pipeline.models.out_of_memory import within_memory
from pipeline.processes.world import Place
from student.checkpoints.flags import SMALLER_BATCH, bad_image_option, batch_option, checkpoint_options, timeout_option
from student.checkpoints.trained import open_saved
from student.judging.scoring import Judge, open_evaluation_set
from student.judging.token_similarity import Similarity, require_tokens
from student.ranks.ranks import joined


@command()
@checkpoint_options
@shards_option
@click.option("--ema", is_flag=True, help="Look at the moving average of the weights.")
@click.option("--out", type=ResultFile(dir_okay=False), help="JSON file for the figures.")
@click.option("--plot", type=ResultFile(".png", dir_okay=False), help="PNG file for the curve over the blocks.")
@bad_image_option
@batch_option
@speed_options
@timeout_option
def main(
    checkpoint: Path, which: str, shards: tuple[str, ...], ema: bool, out: Path | None, plot: Path | None,
    on_bad_image: str, batch: int, speed: Speed, timeout: float,
) -> None:  # fmt: skip
    """Measure how alike class and distillation token are in each layer, and how often their heads agree.

    \b
    Example:
      python -m student.tokens --checkpoint runs/student --shards 'data/val/*.tar' --plot tokens.png
    """
    if plot:
        require_packages("--plot", "matplotlib", extra="report")
    saved = open_saved(checkpoint, which)
    student = saved.weights(ema)
    require_tokens(student)
    speed = speed.shared_by(Place.among_ranks().local_world)
    with joined(speed.device, timeout) as ranks, within_memory(ranks.device, SMALLER_BATCH):
        pictures = open_evaluation_set(shards, saved, ranks, on_bad_image=on_bad_image, workers=speed.workers)
        judge = Judge({"student": student}, saved, ranks)
        similarity = Similarity(judge.students["student"])
        batches = pictures.batches(
            ranks, batch=batch, workers=speed.workers, start_method=speed.start_method, name="tokens"
        )
        for given in batches:
            similarity.add(judge.prepare(given.pixels_BHWC))
        similarity.reduce()
    if ranks.main:
        _report(similarity.summary(), out, plot, saved.spec.model)


def _report(found: dict[str, Any], out: Path | None, plot: Path | None, model: str) -> None:
    start, blocks = found["input"]["tokens"], found["blocks"]
    click.echo(f"cosine of class and distillation token: {start:.3f} as learned")
    for number, block in enumerate(blocks, 1):
        click.echo(f"  after block {number:2}: {block['mean']:.3f} ± {block['deviation']:.3f}")
    click.echo(f"  after the norm: {found['norm']['mean']:.3f}; rows of the heads: {found['weight_rows']['mean']:.3f}")
    click.echo(f"the heads agree on {100 * found['heads_agree']:.2f} % of {found['images']:,} images")
    written = [write_json(out, found)] if out else []
    if plot:
        from student.judging import plots  # only now: it brings matplotlib, which is an extra

        means, deviations = ([block[key] for block in blocks] for key in ("mean", "deviation"))
        written.append(plots.tokens(means, deviations, start, plot, f"class and distillation token, {model}"))
    if written:
        click.echo(f"wrote {', '.join(map(str, written))}")


if __name__ == "__main__":
    main()
