"""Look at the class and the distillation token of a trained student: how alike are they after each block?

python -m student.tokens --checkpoint runs/student --shards 'data/val/*.tar' --out tokens.json --plot tokens.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.commands.command import command, require_no_other_file
from pipeline.commands.outputs import require_suffix
from pipeline.commands.speed_flags import shards_option, share_workers, speed_options
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
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="JSON file for the figures.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="PNG file for the curve over the blocks.")
@bad_image_option
@batch_option
@speed_options
@timeout_option
def main(**flags: Any) -> None:
    """Measure how alike class and distillation token are in each layer, and how often their heads agree.

    \b
    Example:
      python -m student.tokens --checkpoint runs/student --shards 'data/val/*.tar' --plot tokens.png
    """
    require_suffix(flags["plot"], "--plot", ".png")
    if flags["plot"]:
        require_packages("--plot", "matplotlib", extra="report")
    require_no_other_file(flags["out"], "--out")
    saved = open_saved(flags["checkpoint"], flags["which"])
    student = saved.weights(flags["ema"])
    require_tokens(student)
    flags["workers"] = share_workers(flags["workers"], Place.among_ranks().local_world)
    chosen = {name: flags[name] for name in ("on_bad_image", "workers")}
    with joined(flags["device"], flags["timeout"]) as ranks, within_memory(ranks.device, SMALLER_BATCH):
        pictures = open_evaluation_set(flags["shards"], saved, ranks, **chosen)
        judge = Judge({"student": student}, saved, ranks)
        similarity = Similarity(judge.students["student"])
        speed = {name: flags[name] for name in ("batch", "workers", "start_method")}
        for batch in pictures.batches(ranks, name="tokens", **speed):
            similarity.add(judge.prepare(batch.pixels_BHWC))
        similarity.reduce()
    if ranks.main:
        _report(similarity.summary(), flags["out"], flags["plot"], saved.spec.model)


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
