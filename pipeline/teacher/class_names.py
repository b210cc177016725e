"""Are the teacher's classes those of the data, as far as both have names?

A teacher of `stages.fit_teacher` or `student.export` brings its names in config.json, timm's own weights those of
ImageNet (the synset, such as n01440764, and what it is called), a module of the user's its `label_names`; and
`--teacher-classes` names them for one that brings none. Equal numbers of classes prove nothing: the same names in
another order are refused, and put in order where `--class-map by-name` asks for it; other names are refused unless a
class map says which class is which. Classes that are called 0, 1, 2, … have numbers and no names.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timm.data import ImageNetInfo, infer_imagenet_subset  # type: ignore[attr-defined]

from pipeline.errors import MismatchError, TeacherError

log = logging.getLogger(__name__)

BY_NAME = "by-name"
SHOWN = 8


@dataclass(frozen=True, slots=True)
class TeacherNames:
    """What the classes of a teacher are called, and who says so."""

    names: tuple[str, ...]
    """One a class, in the order of its answers"""
    origin: str
    """Who says so"""
    others: tuple[tuple[str, ...], ...] = ()
    """Further names of each class"""
    _known: Mapping[str, tuple[int, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known: dict[str, dict[int, None]] = defaultdict(dict)
        for number, name in enumerate(self.names):
            for called in (name, *(self.others[number] if self.others else ())):
                known[_plain(called) if self.others else called][number] = None
        object.__setattr__(self, "_known", {name: tuple(numbers) for name, numbers in known.items()})

    def find(self, name: str) -> tuple[int, ...]:
        """The classes that are called so: none, one, or (as two of ImageNet's are cranes) several."""
        found = self._known.get(_plain(name) if self.others else name, ())
        if not found and name.isdecimal() and int(name) < len(self.names):
            return (int(name),)  # a folder that is called by the number of the class
        return found


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").strip()


def names_of(
    given: Sequence[str] | None, name: str, weights: Path | None, config: Mapping[str, Any], *, of_timm: bool
) -> TeacherNames | None:
    """What a teacher's classes are called: by the user, by its configuration, or ImageNet's where it is of timm's."""
    classes = int(config["num_classes"])
    if given is not None:
        return _one_each(given, classes, "--teacher-classes")
    beside = None if weights is None else _names_beside(weights)
    if beside is not None:
        return _one_each(beside, classes, f"the config.json beside {weights}")
    if config.get("label_names") is not None:
        return _one_each(config["label_names"], classes, name)
    subset = infer_imagenet_subset({"num_classes": classes}) if of_timm else None
    return None if subset is None else _imagenet(subset)


def _one_each(names: Any, classes: int, origin: str) -> TeacherNames:
    if not isinstance(names, (list, tuple)) or not all(isinstance(one, str) for one in names):
        raise TeacherError(f"{origin}: the names of its classes are {str(names)[:60]!r}, and no list of texts.")
    if len(names) != classes:
        raise TeacherError(f"{origin} names {len(names)} classes ({listed(names)}), the teacher's head has {classes}.")
    return TeacherNames(tuple(names), origin)


def _names_beside(weights: Path) -> Any:
    """The names in a config.json beside a file of weights, as `stages.fit_teacher` and `student.export` write them."""
    try:
        record = json.loads((weights.parent / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record.get("label_names") if isinstance(record, dict) else None


def _imagenet(subset: str) -> TeacherNames:
    info = ImageNetInfo(subset)
    numbers = range(info.num_classes())  # type: ignore[no-untyped-call]
    called = [info.index_to_description(number) for number in numbers]
    others = tuple((text, *text.split(", ")) for text in called)
    return TeacherNames(tuple(map(info.index_to_label_name, numbers)), f"timm's {subset}", others)


def map_by_name(data: Sequence[str] | None, teacher: TeacherNames | None, name: str) -> tuple[int, ...] | None:
    """The teacher's class of each class of the data; None where they are the same."""
    if data is None or teacher is None:
        who = "The shards name no classes (give --classes FILE)" if data is None else _NAMELESS.format(name=name)
        raise MismatchError(f"--class-map {BY_NAME}: names are needed on both sides. {who}.")
    places = [teacher.find(one) for one in data]
    if unknown := [one for one, place in zip(data, places, strict=True) if not place]:
        raise MismatchError(
            f"--class-map {BY_NAME}: {teacher.origin} has no class {listed(unknown)}; it has {listed(teacher.names)}. "
            f"{_OTHERS}"
        )
    for one, place in zip(data, places, strict=True):
        if len(place) > 1:
            several = ", ".join(f"{number} ({teacher.names[number]})" for number in place)
            raise MismatchError(
                f"--class-map {BY_NAME}: {teacher.origin} calls several classes {one!r}: {several}. Give --class-map "
                "FILE, or call it by the name in brackets."
            )
    numbers = tuple(place[0] for place in places)
    return None if numbers == tuple(range(len(teacher.names))) else numbers


def require_same_names(
    data: tuple[str, ...] | None, teacher: TeacherNames | None, class_map: Sequence[int] | None, name: str
) -> None:
    """Refuse a teacher whose classes have other names than the data's, or the same in another order."""
    if teacher is None or data is None or data == tuple(map(str, range(len(data)))):
        _say_nameless(data, teacher, name)
        return
    places = [teacher.find(one) for one in data]
    meant = tuple(class_map) if class_map is not None else tuple(range(len(data)))
    apart = [number for number, place in enumerate(places) if meant[number] not in place]
    if not apart:
        log.info("the teacher's classes have the names of the data's (%s)", teacher.origin)
        return
    if class_map is not None:
        _say_mapped(data, teacher, meant, [number for number in apart if places[number]])
        return
    first = apart[0]
    lists = (
        f"The shards' classes are {listed(data)}; those of {teacher.origin} are {listed(teacher.names)}: class {first} "
        f"is {data[first]!r} here and {teacher.names[first]!r} there"
    )
    if all(places) and len({place[0] for place in places}) == len(places):
        raise MismatchError(
            f"{lists}. They are the same classes in another order. --class-map {BY_NAME} puts the teacher's in the "
            "order of the shards'; or pack the pictures with --classes in the teacher's order."
        )
    raise MismatchError(f"{lists}. These are other classes. {_OTHERS}")


def _say_nameless(data: tuple[str, ...] | None, teacher: TeacherNames | None, name: str) -> None:
    if teacher is None:
        log.info("%s; class numbers are taken to mean the same", _NAMELESS.format(name=name))
    if data is None:
        log.info(
            "the shards name no classes: class numbers are taken to mean what they mean to the teacher, and a student "
            "exports without names. --classes FILE names them"
        )
    elif teacher is not None:
        log.info(
            "the shards call their classes by their numbers: these are taken to mean what they mean to the teacher"
        )


def _say_mapped(data: tuple[str, ...], teacher: TeacherNames, meant: tuple[int, ...], apart: list[int]) -> None:
    """A class map may rename; that it takes a name for that of another class is told."""
    if apart:
        first = apart[0]
        log.warning(
            "--class-map sends class %r to the teacher's %r, although %r is a class of %s, too (%d such classes). "
            "--class-map by-name goes by the names",
            data[first], teacher.names[meant[first]], data[first], teacher.origin, len(apart),
        )  # fmt: skip


def listed(names: Sequence[str]) -> str:
    """The names; of many the first few and their number."""
    return ", ".join(names[:SHOWN]) + (f", … ({len(names)})" if len(names) > SHOWN else "")


_NAMELESS = "the teacher {name} has no names for its classes (--teacher-classes FILE gives them)"
_OTHERS = (
    "Fit a teacher to these classes (stages.fit_teacher), say which of its classes each one is by --class-map FILE, or "
    "name its classes by --teacher-classes FILE if those are not its names."
)
