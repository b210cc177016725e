"""Does today's program read the stores of every format that was ever released, or refuse them by name?

`tests/golden/store-v<N>/` holds a small real store of format N with its shards, made by the release that introduced the
format (``python -m tests.campaign.old_stores`` made the newest; those of earlier formats are never made again). It is
read whole, verified, drawn again, and trained on. A store that says that it is of the next format, or of none, is
refused with the version in the message. `tests/campaign/test_old_stores.py` says how to add the next.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import shutil
import sys
import tarfile
from contextlib import chdir
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.inspection.audit import audit
from pipeline.rendering.drift import check_witnesses
from pipeline.rendering.renderer import Renderer
from pipeline.store.layout import VERSION
from pipeline.store.reader import StoreReader
from pipeline.views.recipe import RENDERED
from tests.campaign.tally import Scale, Tally
from tests.pictures import tiny_shards
from tests.small_students import RECIPE, make_store

TITLE = "old stores: one of each released format"
SHOWS = "read, or refused by name"
GOLDEN = Path(__file__).parents[1] / "golden"
READABLE = (1,)
"""Formats that this program reads; the others it must refuse by name."""


def golden_of(version: int) -> Path:
    """Where the store of a format is kept."""
    return GOLDEN / f"store-v{version}"


def unpacked(version: int, place: Path) -> Path:
    """The golden store of a format, in a folder in which its shards lie where it says."""
    folder = place / f"v{version}"
    with tarfile.open(golden_of(version) / "store.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    return folder


def make_golden(version: int) -> None:
    """Make the golden store of the format that this program writes."""
    folder = golden_of(version)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with chdir(folder):
        shards = tiny_shards(Path("shards"), 16, classes=5, size=(20, 16))
        recipe = dataclasses.replace(RECIPE, image_size=16)
        store = make_store(Path(), rows=16, views=2, keep="topk:3", shards=shards, recipe=recipe)
        expected: dict[str, Any] = {"rows": 16, "views": 2, "units": {}}
        opened = StoreReader.open(store)
        for unit in opened.layout.units():
            found = opened.read(unit.view, unit.run).arrays()
            expected["units"][str(unit)] = {n: a.tolist() for n, a in found.items() if n != "luma"}
        Path("expected.json").write_text(json.dumps(expected) + "\n")
        with (
            gzip.GzipFile("store.tar.gz", "wb", mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for top in ("shards", str(store)):
                for path in sorted(Path(top).rglob("*")):
                    if path.is_file():
                        info = tarfile.TarInfo(str(path))
                        info.size = path.stat().st_size
                        with path.open("rb") as file:
                            tar.addfile(info, file)
        for leftover in ("shards", str(store)):
            shutil.rmtree(leftover)
        Path(f"{store}.lock").unlink()


def run(scale: Scale, place: Path) -> Tally:
    """Every format that has a golden store, and two that nobody has released."""
    del scale
    tally = Tally()
    versions = sorted(int(path.name.removeprefix("store-v")) for path in GOLDEN.glob("store-v*"))
    tally.require(VERSION in versions, f"format {VERSION} has no golden store")
    for version in versions:
        folder = unpacked(version, place)
        with chdir(folder):
            (_read if version in READABLE else _refused)(tally, version)
    for record in ({"name": "offline-distiller label store", "version": VERSION + 1}, {"name": "other", "version": 1}):
        _refused_record(tally, unpacked(VERSION, place / str(record["version"]) / str(record["name"])), record)
    tally.note(f"formats with a golden store: {versions}; this program writes {VERSION}")
    return tally


def _read(tally: Tally, version: int) -> None:
    """All labels are as they were; all bytes are in order; the witnesses are drawn as far as the recipe is known."""
    expected = json.loads((golden_of(version) / "expected.json").read_bytes())
    store = StoreReader.open("store.zarr")
    found = {str(u): store.read(u.view, u.run).arrays() for u in store.layout.units()}
    same = {unit: {n: a.tolist() for n, a in arrays.items() if n != "luma"} for unit, arrays in found.items()}
    tally.case(silent=None if same == expected["units"] else f"format {version}: other labels are read")
    findings = audit(store.name)
    tally.require(not findings, f"format {version}: {[str(finding) for finding in findings][:3]}")
    drift = check_witnesses(store.witness(), Renderer(store.manifest.recipe, store.index, store.index.files()))
    if store.manifest.recipe.version in RENDERED:
        tally.require(drift.kind != "different", f"format {version}: {drift}. Was Recipe.version to go up?")
    tally.note(f"format {version}: {len(found)} units read as they were written; {drift}")


def _refused(tally: Tally, version: int) -> None:
    try:
        StoreReader.open("store.zarr")
        tally.case(silent=f"format {version} is opened")
    except StoreError as error:
        tally.require(f"format version {version}" in str(error), f"format {version}: {error}")


def _refused_record(tally: Tally, folder: Path, record: dict[str, object]) -> None:
    """The newest store, with another format in its records."""
    from pipeline.durable import canonical

    path = folder / "store.zarr" / "COMPLETE"
    content = canonical.unseal(path.read_bytes())
    path.write_bytes(canonical.seal({**content, "format": record}))
    try:
        StoreReader.open(folder / "store.zarr")
        tally.case(silent=f"{record} is opened")
    except StoreError as error:
        named = f"version {record['version']}" if record["name"] != "other" else "other"
        tally.require(named in str(error), f"{record}: {error}")


def sabotage(place: Path) -> Tally:
    """A store of today's format with another label in it, digests made right: the comparison must notice."""
    tally = Tally()
    golden = golden_of(VERSION)
    expected = json.loads((golden / "expected.json").read_bytes())
    store = StoreReader.open(unpacked(VERSION, place) / "store.zarr")
    unit = store.layout.units()[0]
    labels = store.read(unit.view, unit.run).arrays()
    labels["argmax"] = labels["argmax"] ^ 1
    same = {n: a.tolist() for n, a in labels.items() if n != "luma"} == expected["units"][str(unit)]
    tally.case(silent=None if same else "another label is noticed")
    return tally


if __name__ == "__main__":
    if os.path.exists(golden_of(VERSION)) and "--again" not in sys.argv:  # noqa: PTH110
        sys.exit(f"{golden_of(VERSION)} is there: a released format is never made again.")
    make_golden(VERSION)
