"""What are the sub-commands of ``distill``, and where does each live?

A line of the table is enough for a new one. The help line stands here, so that ``distill --help`` need not load what
the commands load (torch, timm, zarr); a test holds it against the command's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

COMMANDS: dict[str, tuple[str, str]] = {
    "pack": ("stages.pack:main", "Pack a folder of images into shuffled, byte-reproducible WebDataset shards."),
    "tile": (
        "stages.tile:main",
        "Rewrite the JPEGs of shards so that a crop costs what it covers: the same pixels, keys, classes and order.",
    ),
    "inspect": ("stages.inspect_views:main", "Print the plan of some views, and draw them on a contact sheet."),
    "fit-teacher": (
        "stages.fit_teacher:main",
        "Fit a model to your shards, so that it can be their teacher (`--model local-dir:runs/teacher`).",
    ),
    "label": (
        "stages.teacher_logits:main",
        "Run the teacher once over augmented views of the shards and store its answers.",
    ),
    "verify": ("stages.verify_logits:main", "Check a finished store: its bytes, its views, and its teacher."),
    "compact": ("stages.compact_logits:main", "Keep less of the teacher's answers, without running it again."),
    "train": ("student.train:main", "Train a student with the labels of a store, as if the teacher stood beside it."),
    "evaluate": (
        "student.evaluate:main",
        "Measure a trained student on shards: accuracy, loss, calibration and agreement of both heads.",
    ),
    "tokens": (
        "student.tokens:main",
        "Measure how alike class and distillation token are in each layer, and how often their heads agree.",
    ),
    "export": (
        "student.export:main",
        "Write a trained student for other programs, and check that it answers the same there.",
    ),
    "push": (
        "student.push:main",
        "Put an exported student, or a finished store, on the Hugging Face Hub, with its card.",
    ),
    "status": (
        "student.status:main",
        "Say how far a labelling or a training is: what is done, by whom, how fast, how long still.",
    ),
    "report": (
        "stages.report:main",
        "Write one self-contained page about what the students gained from the teacher's labels.",
    ),
    "frontier": (
        "stages.frontier:main",
        "Measure accuracy against images a second, of students and teachers on one machine.",
    ),
    "demo": (
        "stages.demo_images:main",
        "Make the pictures of the embedded default: a folder per class, an unlabelled folder, and a validation part.",
    ),
}
"""Name → (module:attribute, first sentence of its help), in the order in which they are used."""


class Named(click.Command):
    """A command that is loaded when it is used, and not to be listed or completed."""

    def __init__(self, name: str, place: str, summary: str) -> None:
        super().__init__(name, short_help=summary)
        self.place = place

    def load(self) -> click.Command:
        """Import the command that the name stands for."""
        module, _, attribute = self.place.partition(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **settings: Any) -> click.Context:
        """The context of the command itself, which click then runs."""
        return self.load().make_context(info_name, args, *more, **settings)


def commands() -> dict[str, click.Command]:
    """All commands by name, none of which has been imported."""
    return {name: Named(name, *entry) for name, entry in COMMANDS.items()}
