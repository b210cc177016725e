"""Shards on the Hugging Face Hub, read by its own client from a server on loopback that speaks its protocol.

The client takes the server's address from HF_ENDPOINT when it is imported, so it is asked in processes of its own.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.shards.index import scan
from tests.pictures import tiny_shards
from tests.servers.hub import Hub, hub_server

ROOT = Path(__file__).parents[3]
NAMES, ROWS = ["ant", "bee", "cat"], 20
HERE = "hf://datasets/owner/name"

LOOK = """
import json, sys
from pipeline import remote
from pipeline.errors import UserError
from pipeline.shards.index import scan
from pipeline.shards.patterns import expand

def look(pattern):
    try:
        index = scan(expand([pattern]))
        return {"digest": index.digest(), "names": index.class_names, "urls": index.urls}
    except UserError as error:
        return str(error)

remote.FIRST_PAUSE_S = 0.01
print(json.dumps([look(pattern) for pattern in sys.argv[1:]]))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with hub_server(tmp_path / "hub") as found:
        yield found


def look(hub: Hub, *patterns: str) -> list[Any]:
    """What each pattern means: its digest, class names and URLs, or the error."""
    home = hub.folder.parent
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "home"), "OMP_NUM_THREADS": "1"}
    env |= {"PYTHONPATH": str(ROOT), "DISTILL_CACHE_DIR": str(home / "cache")}
    line = [sys.executable, "-c", LOOK, *patterns]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert hub.tokens == 0, "no credentials go to a server that was not asked to log in to"
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("xet", [False, True])
def test_public_shards_are_those_of_files(hub: Hub, xet: bool) -> None:
    hub.xet = xet
    paths = tiny_shards(hub.folder / "datasets/owner/name/data", ROWS, shards=3, classes=3, class_names=NAMES)
    local = scan(paths)
    glob, braces, revision = look(
        hub, f"{HERE}/data/*.tar", f"{HERE}/data/{{000000..000002}}.tar", f"{HERE}@main/data/000000.tar"
    )
    assert glob == braces
    assert glob == {
        "digest": local.digest(), "names": NAMES, "urls": [f"{HERE}/data/{Path(path).name}" for path in paths]
    }  # fmt: skip
    assert revision["digest"] == scan(paths[:1]).digest()
    fetched = [line for line in hub.asked if ("/chunks/" if xet else "/large/") in line]
    assert len(fetched) == 4, "each shard once by each name"


def test_shards_that_were_replaced_are_fetched_anew(hub: Hub) -> None:
    folder = hub.folder / "datasets/owner/name"
    tiny_shards(folder, ROWS, shards=1)
    first = look(hub, f"{HERE}/*.tar")
    again = look(hub, f"{HERE}/*.tar")
    assert first == again and sum("/large/" in line for line in hub.asked) == 1, "the second time out of the cache"
    with tarfile.open(folder / "000000.tar") as tar:
        at = next(member.offset_data for member in tar if member.name.endswith(".cls"))
    with (folder / "000000.tar").open("r+b") as file:  # another class for the first row, in as many bytes
        file.seek(at)
        file.write(b"2")
    (new,) = look(hub, f"{HERE}/*.tar")
    assert new["digest"] == scan([str(folder / "000000.tar")]).digest() != first[0]["digest"]


def test_what_goes_wrong_is_told_and_nothing_else_is_taken(hub: Hub) -> None:
    folder = hub.folder / "datasets/owner/name"
    paths = tiny_shards(folder, 24, shards=5)
    kinds = ("cut", "short", "refused", "forbidden", "other")
    for path, kind in zip(paths, kinds, strict=True):
        Path(path).rename(folder / f"{kind}.tar")
    with tarfile.open(folder / "cut.tar", "a") as tar:  # so large that the client keeps what came before the cut
        padding = tarfile.TarInfo(".padding")
        padding.size = 24 << 20
        tar.addfile(padding, io.BytesIO(bytes(padding.size)))
    hub.cuts["cut.tar"], hub.short["short.tar"] = 1, 512
    hub.statuses |= {"refused.tar": 503, "forbidden.tar": 403}
    true = (folder / "other.tar").read_bytes()
    hub.listed_as["other.tar"] = bytes([true[0] ^ 1]) + true[1:]
    absent = (f"{HERE}/absent.tar", f"{HERE}/x*.tar", f"{HERE}@none/cut.tar", "hf://datasets/owner/none/*.tar")
    cut, *wrong = look(hub, *(f"{HERE}/{kind}.tar" for kind in kinds), *absent)
    assert cut["digest"] == scan([str(folder / "cut.tar")]).digest()
    assert hub.cuts["cut.tar"] == 0 and hub.parts == 1, "gone on with where it broke off"
    for said, expected in zip(
        wrong,
        (
            f"{HERE}/short.tar: OSError: Consistency check failed",
            f"{HERE}/refused.tar: HfHubHTTPError: Server error '503 Service Unavailable'",
            f"{HERE}/forbidden.tar cannot be read: HfHubHTTPError: 403 Forbidden",
            f"{HERE}/other.tar: OSError: what came has SHA-256 ",
            f"{HERE}/absent.tar is not there.",
            f"nothing matches {HERE}/x*.tar.",
            f"{HERE}@none/cut.tar is not there.",
            "hf://datasets/owner/none/*.tar is not there. Name the shards where they are, or log in if they are",
        ),
        strict=True,
    ):
        assert isinstance(said, str) and said.startswith(expected), said
    tried = {kind: sum(f"resolve/main/{kind}.tar" in line for line in hub.asked) for kind in kinds}
    assert tried == {"cut": 2, "short": 5, "refused": 5, "forbidden": 1, "other": 5}
    cache = hub.folder.parent / "cache"
    assert len([path for path in cache.iterdir() if not path.suffix and path.name != "room"]) == 1, "only the whole one"


def test_what_goes_wrong_with_chunks_is_told_as_well(hub: Hub) -> None:
    hub.xet = True
    folder = hub.folder / "datasets/owner/name"
    kinds = ("cut", "absent", "other")
    for path, kind in zip(tiny_shards(folder, 24, shards=3), kinds, strict=True):
        Path(path).rename(folder / f"{kind}.tar")
    hub.cuts["cut.tar"], hub.statuses["absent.tar"] = 1, 404
    true = (folder / "other.tar").read_bytes()
    hub.listed_as["other.tar"] = bytes([true[0] ^ 1]) + true[1:]
    cut, *wrong = look(hub, *(f"{HERE}/{kind}.tar" for kind in kinds))
    assert cut["digest"] == scan([str(folder / "cut.tar")]).digest() and hub.cuts["cut.tar"] == 0
    assert "HTTP status client error (404 Not Found)" in wrong[0] and "(5 attempts)" in wrong[0]
    assert wrong[1].startswith(f"{HERE}/other.tar: OSError: what came has SHA-256 ")
    assert "/large/" not in "".join(hub.asked)
