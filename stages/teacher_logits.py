"""Run the teacher once over augmented views of the shards, and store what it says.

    python -m stages.teacher_logits --shards 'data/train/{000000..000003}.tar' --model regnety_160 --views 10
    torchrun --nproc-per-node 8 -m stages.teacher_logits --shards … --out store.zarr       # srun, sbatch --array

Index the shards, load the teacher, open (or create, or extend) the store, do what is missing, mark it complete, and
write a summary from which a wrong class order or normalisation can be seen at once. With several ranks, rank 0 does all
that, and units are handed to whoever is free (`pipeline.labelling.tasks`).
"""

from __future__ import annotations

import logging

import click

from pipeline.commands.cache_flags import kept_options
from pipeline.commands.class_flags import label_options
from pipeline.commands.command import Finite, command
from pipeline.commands.gather import gather
from pipeline.commands.outputs import require_new_folder, require_writable
from pipeline.commands.places import InputPath, OutputStore, ResultFile
from pipeline.commands.recipe_flags import recipe_options
from pipeline.commands.speed_flags import shards_option, speed_options
from pipeline.labelling.tasks import handout_of
from pipeline.processes.start import settle_start_method
from pipeline.rendering.node_caches import NodeCaches
from stages.labelling.plan import LabellingPlan
from stages.labelling.roles import follow, lead, tell_cost
from stages.labelling.teacher_choice import TeacherChoice


@command()
@shards_option
@label_options
@click.option(
    "--out",
    type=OutputStore("text"),
    default="store.zarr",
    help="The store to fill: a directory, or s3://bucket/name.zarr.",
)
@click.option("--model", default="regnety_160", help="A timm model, local-dir:FOLDER, or module:function of yours.")
@click.option("--weights", type=InputPath(), help="safetensors or checkpoint.  [default: timm's own]")
@click.option("--views", type=click.IntRange(1, 1_000_000), default=10, help="Augmented views of every row.")
@click.option("--keep", default="dense", help="What of the logits: dense, topk:K, lowrank:K+R, or argmax.")
@click.option("--temperatures", default="1,3", help="Temperatures at which a topk store is exact.")
@click.option("--class-map", type=InputPath(), help="Which teacher class each data class is: JSON, or by-name.")
@click.option("--teacher-classes", type=InputPath(), help="Names of the teacher's classes.  [default: its own]")
@click.option("--mean", help="The teacher's input mean, as 'R,G,B' in 0 to 1.  [default: the model's own]")
@click.option("--std", help="The teacher's input standard deviation, likewise.  [default: the model's own]")
@click.option("--teacher-size", default="auto", help="Side at which the teacher looks: auto, view, or pixels.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    help="auto: bf16 on cuda, fp16 where cuda emulates it.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=128, help="Views a forward pass; part of the contract."
)
@click.option(
    "--unit-rows",
    type=click.IntRange(min=1),
    help="Rows finished at once, a power of two.  [default: by the data's size]",
)
@click.option(
    "--luma/--no-luma",
    default=None,
    help="Keep 16-byte thumbnails for --accept-drift, or nothing.  [default: 2 bytes, within the checksum's 4]",
)
@recipe_options
@speed_options
@kept_options
@click.option(
    "--timeout",
    type=Finite(min=1),
    default=600.0,
    envvar="DISTILL_TIMEOUT",
    help="Seconds after which a rank that cannot be reached counts as lost.",
)
@click.option("--compile", "compiled", is_flag=True, help="torch.compile the teacher; part of the contract.")
@click.option(
    "--views-together", type=click.IntRange(min=1), default=8, help="Views that share one decode. Speed only."
)
@click.option("--summary", type=ResultFile(), help="Summary JSON.  [default: beside the store]")
@click.option(
    "--if-changed",
    type=click.Choice(["refuse", "rebuild"]),
    default="refuse",
    help="A store made otherwise (recipe, shards, teacher, …) is refused with what differs; or set aside, and made.",
)
@click.option(
    "--recheck", is_flag=True, help="Read all that is finished, and do what is damaged anew.  [default: list it]"
)
@click.option("--dry-run", is_flag=True, help="Say what it would cost, from a short measured sample; write nothing.")
@gather("caches", NodeCaches)
@gather("teacher", TeacherChoice)
@gather("plan", LabellingPlan.of)
def main(plan: LabellingPlan, dry_run: bool) -> None:
    """Run the teacher once over augmented views of the shards and store its answers.

    \b
    Example:
      python -m stages.teacher_logits --shards 'data/train/*.tar' --model regnety_160 --views 10 --out store.zarr
    """
    place = plan.place
    settle_start_method((*plan.urls, plan.out), plan.speed.start_method)
    if place.leads:
        plan.teacher.require_at_hand()
    else:
        logging.getLogger().setLevel(logging.WARNING)
    if dry_run:
        if place.leads and place.slice == 0:
            tell_cost(plan)
        return
    require_new_folder(plan.out)
    if place.leads:
        require_writable(plan.summary, "--summary")
    with handout_of(place, timeout_s=plan.timeout) as handout:
        (lead if place.leads else follow)(plan, handout)


if __name__ == "__main__":
    main()
