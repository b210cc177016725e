"""What is a store a store *of*? The contract that its labels were made under, and that every reader holds it to.

A manifest names everything that decides a label: the recipe, the rows (by digest), the teacher with its weights and
input statistics, what is kept of its answers, the classes, and how rows are cut into units. Two runs with equal
manifests write equal stores. Library versions and hardware are recorded elsewhere and decide nothing: the witness views
do (`pipeline.rendering.drift`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.durable import canonical
from pipeline.errors import MismatchError, RecipeError, StoreError, UserError
from pipeline.labels.keep import Keep, require_temperatures
from pipeline.labels.keeps import parse_keep
from pipeline.proofs.proof import SKETCH, Luma
from pipeline.views.recipe import Recipe

SMALLEST_UNIT, LARGEST_UNIT = 512, 8192
"""Bounds of the default `unit_rows`: a unit is soon finished, and its files are not many."""

HIGHEST_UNIT = 65536


def unit_rows_for(rows: int, mix_window: int) -> int:
    """The default rows of a unit: at most 128 runs for middling data, and no mix window is cut."""
    unit = max(SMALLEST_UNIT, mix_window)
    while unit < LARGEST_UNIT and unit * 128 < rows:
        unit *= 2
    return unit


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCard:
    """Which teacher answered, and how it looked at the views."""

    name: str
    weights_sha256: str
    mean: tuple[float, float, float]
    """Subtracted from pixels in 0 to 1"""
    std: tuple[float, float, float]
    """Divided by afterwards"""
    input_size: int
    """Side of what the teacher sees, in pixels"""
    classes: int
    """Of its own head, before the class map"""
    precision: str
    """fp32, bf16 or fp16; and ``+compile`` after it where the model was compiled"""
    batch_size: int
    """Views a forward pass; the last bits of logits depend on it"""

    def to_json(self) -> dict[str, object]:
        """The card as JSON values, for the manifest's record."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> TeacherCard:
        """The card that a record is of; a record with other fields is refused."""
        _require_fields(_CARD_FIELDS, record, "teacher")
        return cls(**{**record, "mean": tuple(record["mean"]), "std": tuple(record["std"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The contract of a store: everything that decides what its labels are."""

    recipe: Recipe
    index_digest: str
    """`SampleIndex.digest()` of the shards that were labelled, wherever they lie"""
    rows: int
    teacher: TeacherCard
    keep: Keep
    temperatures: tuple[float, ...]
    """At which the log-sum-exp is stored, ascending; empty where what is kept does not depend on them"""
    num_classes: int
    """Of the stored answers"""
    class_names: tuple[str, ...] | None
    class_map: tuple[int, ...] | None
    """The teacher's class behind each stored class; None where they are the same"""
    unit_rows: int
    """Rows of a unit, a power of two"""
    luma: Luma
    """How a view looks, in the store: sixteen of the checksum's bits, an array of thumbnails, or not at all"""

    def __post_init__(self) -> None:
        used = self.temperatures if self.keep.uses_temperatures else ()
        object.__setattr__(self, "temperatures", tuple(sorted(float(t) for t in used)))
        if self.keep.uses_temperatures:
            require_temperatures(self.temperatures)
        self.keep.require_fit(self.num_classes)
        if self.unit_rows < 1 or self.unit_rows & (self.unit_rows - 1) or self.unit_rows > HIGHEST_UNIT:
            raise RecipeError(
                f"--unit-rows {self.unit_rows} is not a power of two up to {HIGHEST_UNIT}. "
                f"Give {SMALLEST_UNIT} to {LARGEST_UNIT}, or leave the flag out."
            )
        if self.rows < 1 or self.num_classes < 1:
            raise MismatchError(f"a store of {self.rows} rows and {self.num_classes} classes holds nothing to learn.")
        for name, values in (("class names", self.class_names), ("class map", self.class_map)):
            if values is not None and len(values) != self.num_classes:
                raise MismatchError(
                    f"the {name} have {len(values)} entries, the stored answers have {self.num_classes} classes. "
                    "Give one entry for each class."
                )

    def fingerprint(self) -> str:
        """The SHA-256 of the manifest's canonical text: it names the contract."""
        return canonical.sha256(canonical.dump(self.to_json()))

    def to_json(self) -> dict[str, object]:
        """The manifest as JSON values, as they stand in the store's ``zarr.json``."""
        return {
            "recipe": self.recipe.to_json(),
            "index_digest": self.index_digest,
            "rows": self.rows,
            "teacher": self.teacher.to_json(),
            "keep": str(self.keep),
            "temperatures": list(self.temperatures),
            "num_classes": self.num_classes,
            "class_names": None if self.class_names is None else list(self.class_names),
            "class_map": None if self.class_map is None else list(self.class_map),
            "unit_rows": self.unit_rows,
            "luma": self.luma,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Manifest:
        """The manifest that says exactly this; anything else in the record, or in another type, is refused."""
        try:
            manifest = cls._read(record)
            same = canonical.dump(manifest.to_json()) == canonical.dump(record)
        except UserError as error:
            raise StoreError(f"manifest: {str(error).removeprefix('manifest: ')}") from error
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise StoreError(f"manifest: not understood ({type(error).__name__}: {error}). {_REMEDY}") from error
        if not same:
            raise StoreError(f"manifest: not as this program writes it. {_REMEDY}")
        return manifest

    @classmethod
    def _read(cls, record: Mapping[str, Any]) -> Manifest:
        _require_fields(_MANIFEST_FIELDS, record, "manifest")
        names, class_map = record["class_names"], record["class_map"]
        read = {
            "recipe": Recipe.from_json(record["recipe"]),
            "teacher": TeacherCard.from_json(record["teacher"]),
            "keep": parse_keep(record["keep"]),
            "temperatures": tuple(record["temperatures"]),
            "class_names": None if names is None else tuple(names),
            "class_map": None if class_map is None else tuple(class_map),
        }
        return cls(**{**record, **read})

    def require_same(self, other: Manifest, *, where: str) -> None:
        """Refuse `other`, which this run asks for, if it differs from this one, which `where` was made under."""
        found = self.differences(other)
        if not found:
            return
        remedy = (
            f"Restore these values, or give another --out; to label anew, move {where} away (teacher_logits does with "
            "--if-changed rebuild)."
        )
        if any(text.startswith("index_digest") for text in found):
            remedy += " The shards are not those that were labelled: other files, or the same ones changed since."
        raise MismatchError(f"{where} was labelled under {'; '.join(found)}. {remedy}")

    def differences(self, other: Manifest) -> list[str]:
        """Each field that differs from `other`, as ``name: mine against theirs``."""
        found = [f"recipe {text}" for text in self.recipe.differences(other.recipe)]
        mine, theirs = self.to_json(), other.to_json()
        for card, prefix in ((self.teacher.to_json(), "teacher "), (mine, "")):
            against = other.teacher.to_json() if prefix else theirs
            found += [
                f"{prefix}{name}: {_difference(card[name], against[name])}"
                for name in card
                if card[name] != against[name] and name not in ("recipe", "teacher")
            ]
        return found


_REMEDY = "Was it written by another version, or damaged? Read it with that version, or label again."


def _difference(mine: object, theirs: object) -> str:
    if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs) > 8:
        at = next(i for i, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1])
        return f"{mine[at]!r} against {theirs[at]!r} at {at}"
    return f"{_show(mine)} against {_show(theirs)}"


def _show(value: object) -> str:
    if isinstance(value, list) and len(value) > 8:
        return f"{len(value)} entries from {value[0]!r}"
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return value[:12]
    return str(value)


def _require_fields(kinds: Mapping[str, str], record: Mapping[str, Any], what: str) -> None:
    """Refuse a record with other fields, or values of other types, than are written."""
    if set(record) != set(kinds):
        missing, unknown = sorted(set(kinds) - set(record)), sorted(set(record) - set(kinds))
        raise StoreError(f"{what}: lacks {missing}, has unknown {unknown}. {_REMEDY}")
    for name, kind in kinds.items():
        if not _IS[kind](record[name]):
            raise StoreError(f"{what}: {name} is {record[name]!r:.60}, which is no {kind}. {_REMEDY}")


def _is_list_of(kind: type[object]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(type(part) is kind for part in value)


_IS: Mapping[str, Callable[[object], bool]] = {
    "text": lambda value: type(value) is str,
    "whole number": lambda value: type(value) is int,
    "truth value": lambda value: type(value) is bool,
    "truth value, or sketch": lambda value: type(value) is bool or value == SKETCH,
    "record": lambda value: isinstance(value, dict),
    "list of numbers": _is_list_of(float),
    "three numbers": lambda value: _IS["list of numbers"](value) and len(value) == 3,  # type: ignore[arg-type]
    "list of texts, or null": lambda value: value is None or _is_list_of(str)(value),
    "list of whole numbers, or null": lambda value: value is None or _is_list_of(int)(value),
}
_CARD_FIELDS = {
    **dict.fromkeys(("name", "weights_sha256", "precision"), "text"),
    **dict.fromkeys(("input_size", "classes", "batch_size"), "whole number"),
    **dict.fromkeys(("mean", "std"), "three numbers"),
}
_MANIFEST_FIELDS = {
    **dict.fromkeys(("recipe", "teacher"), "record"),
    **dict.fromkeys(("index_digest", "keep"), "text"),
    **dict.fromkeys(("rows", "num_classes", "unit_rows"), "whole number"),
    "temperatures": "list of numbers",
    "class_names": "list of texts, or null",
    "class_map": "list of whole numbers, or null",
    "luma": "truth value, or sketch",
}
