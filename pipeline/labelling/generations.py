"""What becomes of a label store when one of another contract takes its place?

It is set aside as a whole (`pipeline.durable.aside`), comes back where its very contract is asked for again, and goes
when a later one is finished. At a URL nothing can be moved: there a store that holds labels is never made room for.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.durable import aside
from pipeline.durable.objects import Objects, open_objects
from pipeline.errors import StoreError
from pipeline.store.contents import read_base, require_ours
from pipeline.store.manifest import Manifest
from pipeline.store.receipts import BASE_KEY, COMPLETE_KEY, Contract, units_in


def set_aside(path: str | Path, why: str) -> None:
    """Make room for another store; what is not a store of ours is refused and stays."""
    objects = open_objects(path)
    with objects.lock():
        sizes = objects.sizes()
        require_ours(objects, sizes)
        if COMPLETE_KEY not in sizes and not units_in(sizes):  # no label was ever finished in it
            _delete(objects)
        elif objects.folder is not None:
            aside.put_aside(objects.folder, why)
        else:
            raise StoreError(
                f"{why} At a URL it cannot be set aside, since a bucket has no rename, and labels are not removed "
                f"before others take their place: give another --out, or move {objects.name} yourself."
            )


def bring_back(path: str | Path, manifest: Manifest) -> None:
    """Where there is no store, move back one that was set aside and is of this very contract."""
    objects = open_objects(path)
    folder = objects.folder
    if folder is None or not (earlier := aside.asides(folder)):
        return
    wanted = Contract(manifest=manifest.fingerprint(), index=manifest.index_digest)
    with objects.lock():
        found = () if objects.sizes() else filter(lambda at: _contract_of(at) == wanted, earlier)
        for place in found:
            aside.bring_back(folder, place)
            return


def keep_one(path: str | Path) -> None:
    """Remove what was set aside of this store, which is finished now, except one."""
    if (folder := open_objects(path).folder) is not None:
        aside.keep_one(folder, finished=lambda place: (place / COMPLETE_KEY).exists(), remove=_discard)


def _contract_of(path: Path) -> Contract | None:
    base = read_base(open_objects(path))
    return None if base is None else base.contract


def _discard(path: Path) -> None:
    """Remove the objects of a store; other people's files stay, and the folder with them."""
    objects = open_objects(path)
    with objects.lock():
        require_ours(objects, objects.sizes())
        _delete(objects)
    aside.remove_files(path, ())


def _delete(objects: Objects) -> None:
    """All objects of a store, those first without which nobody takes it for one."""
    for key in (COMPLETE_KEY, BASE_KEY, *objects.sizes()):
        objects.delete(key)
