"""classes.json and pack.json mean the same beside shards at URLs as beside files: on a real S3 and a web server."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pipeline.remote.client
from pipeline.errors import ShardError
from pipeline.remote import files as remote_files
from pipeline.shards import sidecars as packed
from pipeline.shards.index import scan
from pipeline.shards.sidecars import class_names_beside, digests_beside
from tests.pictures import tiny_shards
from tests.servers.flaky import proxy
from tests.servers.s3 import forget, point_at, s3_server
from tests.servers.web import Web, web_server

NAMES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[int, Any]]:
    with s3_server() as found:
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    shards = tiny_shards(folder, rows=12, shards=2, classes=3, class_names=NAMES)
    digests = {Path(path).name: {"sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()} for path in shards}
    (folder / "pack.json").write_text(json.dumps({"shards": digests}))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


@pytest.fixture
def fresh(server: tuple[int, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    point_at(server[0], monkeypatch)
    monkeypatch.setenv("DISTILL_CACHE_DIR", str(tmp_path / "cache"))
    yield
    forget()


@pytest.fixture(params=["s3", "web", "web without ranges"])
def far(request: pytest.FixtureRequest, fresh: None, server: tuple[int, Any], folder: Path) -> Iterator[Any]:
    """The URL of the folder, and a function that brings there what is in it now."""
    if request.param != "s3":
        with web_server(folder, ranges=request.param == "web") as web:
            yield web.url, lambda: None
        return
    name = request.node.name.replace("[", "-").replace("]", "")

    def bring() -> None:
        for old in server[1].list_objects_v2(Bucket="bucket", Prefix=f"{name}/").get("Contents", []):
            server[1].delete_object(Bucket="bucket", Key=old["Key"])
        for path in folder.iterdir():
            server[1].put_object(Bucket="bucket", Key=f"{name}/{path.name}", Body=path.read_bytes())

    bring()
    yield f"s3://bucket/{name}", bring


def urls_in(url: str) -> tuple[str, ...]:
    return tuple(f"{url}/{number:06d}.tar" for number in range(2))


def test_names_and_digests_are_those_of_files(far: Any, folder: Path) -> None:
    urls, local = urls_in(far[0]), [str(folder / f"{number:06d}.tar") for number in range(2)]
    index = scan(urls)
    assert index.class_names == scan(local).class_names == tuple(NAMES)
    assert (
        list(digests_beside(urls).values()) == list(digests_beside(local).values()) and len(digests_beside(urls)) == 2
    )


def test_a_shard_is_held_to_its_pack_json(far: Any, folder: Path) -> None:
    content = json.loads((folder / "pack.json").read_text())
    content["shards"]["000001.tar"]["sha256"] = "0" * 64
    (folder / "pack.json").write_text(json.dumps(content))
    far[1]()
    with pytest.raises(ShardError, match=r"/000001\.tar is not as it was packed: .*pack\.json says 000000000000…"):
        scan(urls_in(far[0]))


def test_neither_need_be_there(far: Any, folder: Path) -> None:
    for name in ("classes.json", "pack.json"):
        (folder / name).unlink()
    far[1]()
    urls = urls_in(far[0])
    assert class_names_beside(urls) is None and digests_beside(urls) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "/classes.json is no JSON"),
        (b"<html>this is a page</html>", "/classes.json is no JSON"),
        (b'{"classes": []}', r"/classes.json must hold \{"),
        (b"[" * 5000, "/classes.json has more than 4,000 bytes"),
    ],
)
def test_one_that_cannot_be_understood_is_an_error(far: Any, folder: Path, content, message, monkeypatch) -> None:
    monkeypatch.setattr(packed, "MAX_BYTES", 4000)
    (folder / "classes.json").write_bytes(content)
    far[1]()
    with pytest.raises(ShardError, match=message):
        class_names_beside(urls_in(far[0]))


# ---- a server that says no


@pytest.fixture
def web(fresh: None, folder: Path) -> Iterator[Web]:
    with web_server(folder) as found:
        yield found


def test_each_is_asked_for_once_a_folder(web: Web, folder: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(folder, folder / name, ignore=shutil.ignore_patterns("a", "b"))
    urls = [*urls_in(f"{web.url}/a"), *urls_in(f"{web.url}/b")]
    assert class_names_beside(urls) == tuple(NAMES) and len(digests_beside(urls)) == 4
    assert sorted(web.asked) == [f"GET /{f}/{n}.json" for f in "ab" for n in ("classes", "pack")]
    (folder / "b/classes.json").write_text(json.dumps({"classes": ["x", *NAMES]}))
    with pytest.raises(
        ShardError, match=rf"{web.url}/a/classes.json names 3 classes .*, {web.url}/b/classes.json names"
    ):
        class_names_beside(urls)


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_will_not_say_is_told_of_and_passed_over(web: Web, status: int, caplog) -> None:
    web.answers |= {"/classes.json": status, "/pack.json": status}
    index = scan(urls_in(web.url))
    assert index.class_names is None and len(index) == 12
    assert f"{web.url}/classes.json: ClientResponseError: {status}" in caplog.text
    assert f"{web.url}/pack.json: ClientResponseError: {status}" in caplog.text
    assert web.names.count("classes.json") == 1, "it is not asked again"


def test_a_server_that_fails_is_an_error_after_some_attempts(web: Web) -> None:
    web.answers["/classes.json"] = 503
    with pytest.raises(ShardError, match=r"/classes.json: ClientResponseError: 503.* \(5 attempts\)"):
        scan(urls_in(web.url))
    assert web.names == ["classes.json"] * pipeline.remote.client.ATTEMPTS
    web.answers["/classes.json"] = 410
    with pytest.raises(ShardError, match=r"/classes.json cannot be read: ClientResponseError: 410"):
        scan(urls_in(web.url))
    assert web.names == ["classes.json"] * (pipeline.remote.client.ATTEMPTS + 1), (
        "what will stay is not asked for again"
    )


@pytest.mark.parametrize("fault", ["refuse", "cut", "stall"])
def test_a_fault_now_and_then_is_got_over(web: Web, fault: str, monkeypatch) -> None:
    monkeypatch.setattr(pipeline.remote.client, "STALL_S", 1.0)
    port = int(web.url.rpartition(":")[2])
    with proxy(port, lambda number: fault if number < 2 else "pass", cut_at=30) as between:
        assert class_names_beside(urls_in(between.url)) == tuple(NAMES)


def test_a_url_that_is_signed_says_nothing_of_its_neighbours(web: Web, caplog) -> None:
    urls = [f"{url}?signature=abc" for url in urls_in(web.url)]
    assert class_names_beside(urls) is None and digests_beside(urls) == {} and web.asked == []
    assert f"{web.url}/000000.tar is a URL for one object alone" in caplog.text
    assert "abc" not in caplog.text
    assert len(scan(urls)) == 12


def test_names_with_odd_letters_are_found(web: Web, folder: Path) -> None:
    shard = folder / "a b.tar"
    shutil.copy(folder / "000000.tar", shard)
    (folder / "pack.json").write_text(json.dumps({"shards": {"a b.tar": {"sha256": "1" * 64}}}))
    assert digests_beside([f"{web.url}/a%20b.tar"]) == {f"{web.url}/a%20b.tar": "1" * 64}
    assert remote_files.small_file(f"{web.url}/absent.json", 10) is None
