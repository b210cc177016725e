"""What does the user say of the classes in the shards: where they stand, and what they are called?

`--classes FILE` names the classes in the order of their numbers, `--label-key` the place in a sample
(`pipeline.shards.truth`).
"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.command import options
from pipeline.commands.gather import gather
from pipeline.commands.places import InputPath
from pipeline.errors import ShardError
from pipeline.shards.sidecars import read_class_names, require_class_names
from pipeline.shards.truth import LabelRule

label_key_option = click.option(
    "--label-key",
    metavar="KEY",
    help="Where the class of a sample stands: a key of its json, or .FIELD, such as .txt.  [default: cls, or else "
    "label of the json]",
)


def label_rule(label_key: str | None, classes: Path | None) -> LabelRule:
    """How classes are found in the samples, as `--label-key` and `--classes` ask for it."""
    return LabelRule(key=label_key, names=None if classes is None else read_class_list(classes))


label_options = options(
    label_key_option,
    click.option(
        "--classes",
        type=InputPath(),
        help="Names of the classes in the order of their numbers: classes.json, or a text file with one a line.  "
        "[default: classes.json beside the shards]",
    ),
    gather("rule", label_rule),
)
"""`--label-key` and `--classes`, which arrive as `rule`."""


def read_class_list(path: Path, flag: str = "--classes") -> tuple[str, ...]:
    """Class names in the order of their numbers: a classes.json, or a text file with one name a line."""
    if not path.is_file():
        raise ShardError(f"{flag} {path}: no such file. Give a classes.json, or a text file with one name a line.")
    if path.suffix == ".json":
        names = read_class_names(path)
    else:
        names = tuple(line.strip() for line in _text_of(path).splitlines() if line.strip())
    if not names:
        raise ShardError(f"{path} names no classes. Give a classes.json, or a text file with one name a line.")
    require_class_names(names, path)
    return names


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ShardError(f"{path} is not UTF-8 text.") from None
