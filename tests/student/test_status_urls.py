"""How far the labelling of a store in a bucket is, through the command: what the lists and leases there say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from distill.__main__ import main
from pipeline.durable import writer_lock
from pipeline.durable.objects import open_objects
from pipeline.durable.writer_lock import myself, seated
from pipeline.labelling.writers import Telling
from pipeline.processes.world import Place
from tests.many_ranks import eventually
from tests.servers.s3 import forget, point_at, renew_often, s3_server
from tests.stores import fill, index_of, manifest_of, open_writing

INDEX = index_of(70)
MANIFEST = manifest_of(INDEX, "topk:3")  # two views in runs of 32, 32 and 6 rows
URL = "s3://bucket/labels/store.zarr"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with s3_server() as (port, client):
        point_at(port, monkeypatch)
        yield client
        forget()


def status(*words: str) -> tuple[int, list[str], str]:
    result = CliRunner().invoke(main, ["status", *words], catch_exceptions=False)
    assert all(len(line) <= 60 for line in result.stdout.splitlines() if "--json" not in words), result.stdout
    return result.exit_code, result.stdout.splitlines(), result.stderr


def told(url: str = URL) -> dict[str, Any]:
    return json.loads("\n".join(status(url, "--json")[1]))  # type: ignore[no-any-return]


def begin(units: int) -> None:
    with open_writing(URL, MANIFEST, INDEX, 2) as store:
        fill(store, store.missing()[:units])
        if not store.missing():
            store.finish()


def test_a_store_under_way_in_a_bucket(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    renew_often(monkeypatch)  # what it says goes with a renewal
    begin(units=4)
    assert status(URL)[1][0] == "store    stopped 72.9 %", "102 of 140 labels"
    objects = open_objects(URL)
    with seated(objects.seat(), alone=True, follows=False, wait_s=0) as seat:
        telling = Telling(seat, Place(rank=0, world=1))
        telling(8)
        telling._said = -9.0
        telling(8)
        eventually(lambda: told()["state"] == "labelling" and told()["writers"][0]["told"].get("rate"))
        code, lines, said = status(URL)
        assert (code, said, lines[0]) == (0, "", "store    labelling 72.9 %")
        assert lines[1:4] == ["labels   102 of 140", "         2 views x 70 rows", "units    4 of 6"]
        assert lines[4].startswith("speed    ") and lines[4].endswith(" to go")
        assert lines[5].startswith("rank 0   ") and " labels, " in lines[5] and len(lines) == 6
        killed = {**myself(), "born": 1, "rank": 1, "state": "labels"}
        s3.put_object(Bucket="bucket", Key="labels/store.zarr.writers/killed", Body=json.dumps(killed).encode())
        away = {**myself(), "host": "node7", "rank": 2, "state": "labels"}
        s3.put_object(Bucket="bucket", Key="labels/store.zarr.writers/away", Body=json.dumps(away).encode())
        s3.put_object(Bucket="bucket", Key="labels/store.zarr.writers/torn", Body=b'{"pid": ')
        monkeypatch.setattr(writer_lock, "SILENT_S", -1.0)
        lines = status(URL)[1]
        assert "is gone (killed, or failed)" in lines[6] and lines[7].startswith("rank 2   node7 ")
        assert "no word, silent " in lines[7] and len(lines) == 8
    for name in ("killed", "away", "torn"):
        s3.delete_object(Bucket="bucket", Key=f"labels/store.zarr.writers/{name}")
    assert told()["state"] == "stopped" and told()["writers"] == []


def test_a_finished_store_in_a_bucket_that_is_then_damaged(s3: Any) -> None:
    begin(units=6)
    whole = ["store    finished", "labels   140 of 140", "         2 views x 70 rows", "units    6 of 6"]
    assert status(URL) == status(f"{URL}/") == (0, whole, "")
    s3.delete_object(Bucket="bucket", Key="labels/store.zarr/argmax/c.1.2")
    code, lines, said = status(URL)
    assert (code, lines) == (1, ["store    damaged"])
    assert said.startswith(f"error: {URL}/argmax/c.1.2 (unit view 1, run 2) is absent; ") and said.count("\n") == 1
    s3.delete_object(Bucket="bucket", Key="labels/store.zarr/COMPLETE")
    assert status(URL)[2] == (
        "error: argmax/c.1.2 is absent or empty, and its receipt is there. Label again: it is done anew.\n"
    )
    s3.put_object(Bucket="bucket", Key="labels/store.zarr/COMPLETE", Body=b"{}")
    code, lines, said = status(URL)
    assert (code, lines) == (1, ["store    damaged"]) and "COMPLETE is damaged" in said
    found = told()
    assert (found["state"], found["name"]) == ("damaged", URL)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (URL, f"{URL}: there is no label store, and nobody makes one."),
        ("s3://bucket/other", "s3://bucket/other is not a label store, or it was hardly begun."),
        ("s3://nobucket/store.zarr", "there is no bucket nobucket. Make it, or name another."),
        ("s3://bucket", "s3://bucket names no store. Give a bucket and a name: s3://bucket/store.zarr."),
        ("https://host/a.zarr", "https://host/a.zarr: label stores are kept on a file system or in S3. "
         "Give a path, or s3://bucket/name."),
    ],
)  # fmt: skip
def test_where_there_is_no_store(s3: Any, url: str, said: str) -> None:
    s3.put_object(Bucket="bucket", Key="other/notes.txt", Body=b"x")
    assert status(url) == (1, [], f"error: {said}\n")
