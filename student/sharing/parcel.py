"""What is sent to others, of a student or of a store, and is it whole?

An exported student goes as the files that its export wrote. A finished store goes as one folder of its own name: every
byte is read first and held to its digest, because what is damaged here would be damaged there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.durable.objects import open_objects
from pipeline.errors import StudentError, UserError
from pipeline.inspection.audit import audit
from pipeline.progress import Progress
from pipeline.store.contents import object_keys
from pipeline.store.layout import GAUGE_KEY
from pipeline.store.reader import StoreReader
from pipeline.store.receipts import BASE_KEY, COMPLETE_KEY, unit_keys
from student.exporting.export_folder import OWN, PREPROCESSING
from student.exporting.model_card import CARD, HERE, is_ours, sealed, unsealed
from student.exporting.onnx_graph import FILE
from student.exporting.timm_folder import CONFIG, WEIGHTS
from student.sharing.data_card import data_card


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """The files that are to go to one repository, and in which order."""

    kind: Literal["model", "dataset"]
    title: str
    files: Mapping[str, Path | bytes]
    """By their names in the repository"""
    last: tuple[str, ...]
    """Those that make it whole, and go last"""
    folder: str
    """Where they lie in the repository, with a slash at its end; empty for its root"""

    def owns(self, name: str) -> bool:
        """Whether a file of that name in the repository is this parcel's to replace or to remove."""
        return name.startswith(self.folder) if self.folder else name in OWN

    def without(self, name: str) -> Parcel:
        """The same parcel without the file of this name."""
        files = {other: data for other, data in self.files.items() if other != name}
        return replace(self, files=files, last=tuple(other for other in self.last if other != name))


def parcel_of(place: Path, repository: str) -> Parcel:
    """The files to push of what lies at a place: an exported student, or a finished store; else it is refused."""
    if (place / PREPROCESSING).is_file():
        return _student(place, repository)
    if (place / "zarr.json").is_file():
        return _store(place, repository)
    what = "a run, and is exported first (student.export)" if (place / "last.pt").is_file() else "neither"
    raise UserError(f"{place}: an exported student or a finished store can be pushed, and this is {what}.")


def _student(folder: Path, repository: str) -> Parcel:
    there = {name: folder / name for name in OWN if (folder / name).is_file()}
    if not ({WEIGHTS, CONFIG} <= there.keys() or FILE in there):
        raise StudentError(f"{folder} has no {WEIGHTS} with its {CONFIG}, and no {FILE}. Export the student again.")
    card = folder / CARD
    if not card.is_file():
        raise StudentError(f"{folder} has no {CARD} that says what it is. Export the student again.")
    text = unsealed(card).replace(HERE, f"hf-hub:{repository}")
    told = sealed(text) if is_ours(card) else text
    return Parcel(
        kind="model",
        title="A distilled student",
        files={**there, CARD: told.encode()},
        last=(CARD,),
        folder="",
    )


def _store(place: Path, repository: str) -> Parcel:
    store, folder = StoreReader.open(place), f"{place.resolve().name}/"
    keys = _keys(store) | ({GAUGE_KEY} & open_objects(place).sizes().keys())
    _require_sound(place, keys)
    files: dict[str, Path | bytes] = {f"{folder}{key}": place / key for key in sorted(keys)}
    card = sealed(data_card(store, repository, folder)).encode()
    return Parcel(
        kind="dataset",
        title="A teacher's labels",
        files={**files, CARD: card},
        last=(f"{folder}{COMPLETE_KEY}", CARD),
        folder=folder,
    )


def _keys(store: StoreReader) -> set[str]:
    """All that belongs to a finished store."""
    layout = store.layout
    arrays = layout.unit_arrays()
    keys = {BASE_KEY, COMPLETE_KEY} | layout.metadata().keys() | object_keys(layout.base_arrays())
    return keys.union(*({unit.receipt_key, *unit_keys(arrays, unit)} for unit in layout.units()))


def _require_sound(place: Path, keys: set[str]) -> None:
    """Read every byte of what would be sent."""
    with Progress("verify", 0, "units") as progress:

        def watch(done: int, total: int) -> None:
            progress.total = total
            progress.advance(done - progress.count)

        stray = {f"{place}/{key}" for key in open_objects(place).sizes().keys() - keys}  # which are not sent
        findings = [found for found in audit(place, watch) if found.where not in stray]
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        first = str(findings[0]).rstrip(".")
        raise UserError(f"{place} is damaged, and would be so there: {first}{more}. stages.verify_logits tells all.")
