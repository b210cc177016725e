"""Shards at URLs: a real S3 server and a real web server on loopback, and a proxy that spoils what they say."""

from __future__ import annotations

import functools
import hashlib
import http.server
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

import pipeline.remote.cache_settings
import pipeline.remote.client
from pipeline.errors import ShardError, UserError
from pipeline.processes.start import checked_start_method
from pipeline.remote.cache import Cache
from pipeline.remote.cache_settings import bytes_of
from pipeline.rendering.loader import Loader, requests_of
from pipeline.shards.files import ShardFiles
from pipeline.shards.index import scan
from pipeline.shards.patterns import expand
from pipeline.shards.rows import payload_of
from pipeline.views.recipe import Recipe
from tests.many_ranks import eventually
from tests.pictures import tiny_shards
from tests.servers.flaky import proxy

ROWS = 24


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("shards")
    return tuple(Path(path) for path in tiny_shards(folder, ROWS, shards=3))


@pytest.fixture(scope="module")
def s3(shards: tuple[Path, ...]) -> Iterator[int]:
    """The port of an S3 server that has the shards in `bucket/train`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)
    client.create_bucket(Bucket="bucket")
    for path in shards:
        client.put_object(Bucket="bucket", Key=f"train/{path.name}", Body=path.read_bytes())
    yield port
    server.stop()


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """Say at which port the S3 server is; with an empty cache and no connections from before."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("DISTILL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(pipeline.remote.client, "FIRST_PAUSE_S", 0.01)

    def point(port: int) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        pipeline.remote.client._remotes.clear()
        pipeline.remote.cache_settings._caches.clear()

    yield point
    pipeline.remote.client._remotes.clear()
    pipeline.remote.cache_settings._caches.clear()


def url_of(path: Path) -> str:
    return f"s3://bucket/train/{path.name}"


def read(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def whole(folder: Path) -> list[Path]:
    """The shards in a cache."""
    return [path for path in folder.glob("*") if not path.suffix]


# ---- reading


def test_a_scan_and_its_payloads_are_those_of_local_shards(shards, s3, at) -> None:
    at(s3)
    urls = expand(["s3://bucket/train/{000000..000002}.tar"])
    assert urls == expand(["s3://bucket/train/*.tar"]) == tuple(map(url_of, shards))
    index, local = scan(urls), scan([str(path) for path in shards])
    assert index.digest() == local.digest()
    with index.files() as files:
        for row in range(ROWS):
            assert payload_of(index, files, row) == payload_of(local, local.files(), row)
    with pytest.raises(ShardError, match=r"nothing matches s3://bucket/nothing/\*\.tar"):
        expand(["s3://bucket/nothing/*.tar"])


def test_workers_render_from_urls_what_they_render_from_files(shards, s3, at) -> None:
    at(s3)
    recipe = Recipe.preset("light", image_size=32)
    pixels = []
    for urls in (tuple(map(str, shards)), tuple(map(url_of, shards))):
        index, workers = scan(urls), int("://" in urls[0])
        # spawn: a fork server that another test started has the environment of that time
        with Loader(recipe, index, batch=8, workers=workers, start_method="spawn" if workers else None) as loader:
            requests = requests_of(np.arange(ROWS), 0, 8)
            pixels.append(np.concatenate([slot.pixels_BHWC.copy() for slot in loader.render(requests)]))
    assert np.array_equal(*pixels)


def test_a_web_server_will_do(shards, at, tmp_path) -> None:
    at(1)
    handler = functools.partial(Quiet, directory=str(shards[0].parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{shards[0].name}"
        assert read(Cache(tmp_path / "web").open(url)) == shards[0].read_bytes()
        with pytest.raises(ShardError, match=r"absent.tar is not there"):
            Cache(tmp_path / "web").open(f"http://127.0.0.1:{server.server_port}/absent.tar")
        with pytest.raises(ShardError, match="a web server cannot be asked what it has"):
            expand([f"http://127.0.0.1:{server.server_port}/*.tar"])
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_what_is_here_is_not_asked_for_again(shards, s3, at, tmp_path) -> None:
    with proxy(s3, lambda _: "pass") as between:
        at(between.port)
        cache = Cache(tmp_path / "c")
        size = shards[0].stat().st_size
        assert read(cache.open(url_of(shards[0]), size)) == shards[0].read_bytes()
        pipeline.remote.client._remotes.clear()
        before = between.connections
        assert read(Cache(tmp_path / "c").open(url_of(shards[0]), size)) == shards[0].read_bytes()
        assert between.connections == before


def test_a_shard_that_was_changed_is_fetched_anew_by_a_scan_and_refused_by_a_reader(shards, s3, at, tmp_path) -> None:
    at(s3)
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{s3}")
    cache, url = Cache(tmp_path / "c"), "s3://bucket/changing.tar"
    client.put_object(Bucket="bucket", Key="changing.tar", Body=b"a" * 2000)
    assert read(cache.open(url)) == b"a" * 2000
    client.put_object(Bucket="bucket", Key="changing.tar", Body=b"b" * 2000)
    assert read(cache.open(url)) == b"b" * 2000
    with pytest.raises(ShardError, match=r"changing.tar has 2,000 bytes, and had 1,999 when it was indexed"):
        cache.open(url, 1999)


# ---- faults


@pytest.mark.parametrize("fault", ["refuse", "error", "cut", "stall"])
def test_a_fault_now_and_then_is_got_over(shards, s3, at, tmp_path, fault, caplog) -> None:
    caplog.set_level("WARNING", "pipeline.remote.client")
    until = 4 if fault == "stall" else 10**9  # each of those is waited for
    with proxy(s3, lambda number: fault if number < until and number % 4 != 3 else "pass") as between:
        at(between.port)
        cache = Cache(tmp_path / "c", stall_s=1.5)
        for path in shards:
            assert read(cache.open(url_of(path))) == path.read_bytes()
    assert "attempt 2 of 5" in caplog.text
    assert len(whole(tmp_path / "c")) == 3 and not list((tmp_path / "c").glob("*.part"))


@pytest.mark.parametrize("fault", ["refuse", "error", "cut", "stall"])
def test_a_fault_that_stays_ends_in_time_and_leaves_nothing(shards, s3, at, tmp_path, fault) -> None:
    with proxy(s3, lambda _: fault) as between:
        at(between.port)
        cache = Cache(tmp_path / "c", stall_s=0.3)
        begun = time.monotonic()
        with pytest.raises(ShardError, match=r"000001.tar: .* \(5 attempts\)\. Check the network and the server"):
            cache.open(url_of(shards[1]))
        assert time.monotonic() - begun < 60
        assert between.connections <= 2 * pipeline.remote.client.ATTEMPTS
    assert whole(tmp_path / "c") == [] and not list((tmp_path / "c").glob("*.part"))


def test_bytes_that_are_not_the_ones_that_the_server_names_are_fetched_again(
    shards, s3, at, tmp_path, monkeypatch
) -> None:
    """As many bytes as there should be, and one of them wrong."""
    at(s3)
    original, calls = pipeline.remote.client.Remote.call, []

    def spoil(self: pipeline.remote.client.Remote, name: str, *args: object, **kwargs: object) -> object:
        answer = original(self, name, *args, **kwargs)  # type: ignore[arg-type]
        if name == "get_file" and not calls:
            calls.append(1)
            with Path(str(args[1])).open("r+b") as file:
                file.seek(700)
                file.write(b"\xff\xfe")
        return answer

    monkeypatch.setattr(pipeline.remote.client.Remote, "call", spoil)
    assert read(Cache(tmp_path / "c").open(url_of(shards[0]))) == shards[0].read_bytes()
    assert calls


def test_a_fork_is_refused_where_it_would_hang(shards, s3, at, tmp_path) -> None:
    at(s3)
    with pytest.raises(
        UserError, match=r"--start-method fork does not go with s3://b/x.tar: .*Use forkserver or spawn"
    ):
        checked_start_method(("s3://b/x.tar",), "fork")
    assert checked_start_method(("s3://b/x.tar",), None) == "forkserver"
    assert checked_start_method(("x.tar",), "fork") == "fork"
    read(Cache(tmp_path / "c").open(url_of(shards[0])))
    assert checked_start_method(("x.tar",), None) == "forkserver", "this process has connections now"
    with pytest.raises(UserError, match="does not go with a URL"):
        checked_start_method(("x.tar",), "fork")
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_try, args=(theirs, url_of(shards[1]), tmp_path / "d"))
    child.start()
    assert ours.poll(180) and "Use --start-method forkserver or spawn" in ours.recv()
    child.join()


def _try(connection: multiprocessing.connection.Connection, url: str, folder: Path) -> None:
    try:
        Cache(folder).open(url)
        connection.send("it was read")
    except UserError as error:
        connection.send(str(error))


# ---- the folder


def test_processes_of_a_node_fetch_a_shard_once(shards, s3, at, tmp_path) -> None:
    at(s3)
    context = multiprocessing.get_context("fork")  # none of them has read a URL before
    gate, queue = context.Barrier(3), context.Queue()
    crew = [context.Process(target=_count, args=(gate, queue, url_of(shards[0]), tmp_path / "c")) for _ in range(3)]
    for process in crew:
        process.start()
    found = [queue.get(timeout=180) for _ in crew]
    for process in crew:
        process.join()
    assert {digest for digest, _ in found} == {hashlib.sha256(shards[0].read_bytes()).hexdigest()}
    assert sum(fetched for _, fetched in found) == 1


def _count(gate: threading.Barrier, queue: multiprocessing.Queue[tuple[str, int]], url: str, folder: Path) -> None:
    fetched, original = [], Cache._attempt
    Cache._attempt = lambda self, *args: (fetched.append(1), original(self, *args))[1]  # type: ignore[method-assign]
    gate.wait()
    data = read(Cache(folder).open(url))
    queue.put((hashlib.sha256(data).hexdigest(), len(fetched)))


def test_what_was_used_longest_ago_goes_and_what_is_in_use_stays(shards, s3, at, tmp_path) -> None:
    at(s3)
    sizes = [path.stat().st_size for path in shards]
    cache = Cache(tmp_path / "c", limit=sum(sizes) - 1)
    first = cache.open(url_of(shards[0]))
    os.close(cache.open(url_of(shards[1])))
    os.close(cache.open(url_of(shards[2])))  # the first was used longest ago, and is in use
    assert {path.stat().st_size for path in whole(tmp_path / "c")} <= {sizes[0], sizes[2], sizes[1]}
    assert len(whole(tmp_path / "c")) == 2
    assert read(first) == shards[0].read_bytes()
    os.close(cache.open(url_of(shards[2])))
    os.close(cache.open(url_of(shards[1])))  # now the first may go
    names = {path.name for path in whole(tmp_path / "c")}
    assert names == {cache._place(url_of(shards[1])).name, cache._place(url_of(shards[2])).name}


def test_a_cache_that_is_full_of_what_is_in_use_is_an_error(shards, s3, at, tmp_path) -> None:
    at(s3)
    cache = Cache(tmp_path / "c", limit=shards[0].stat().st_size + 10)
    held = cache.open(url_of(shards[0]))
    with pytest.raises(ShardError, match=r"may hold [\d,]+ bytes; [\d,]+ are in use, .* Give a larger --cache-size"):
        cache.open(url_of(shards[1]))
    assert read(held) == shards[0].read_bytes()


def test_what_a_killed_process_left_is_swept_and_what_is_cut_is_fetched_again(shards, s3, at, tmp_path) -> None:
    at(s3)
    cache = Cache(tmp_path / "c")
    size = shards[0].stat().st_size
    os.close(cache.open(url_of(shards[0]), size))
    place = cache._place(url_of(shards[0]))
    place.write_bytes(b"cut")
    stray = place.with_name(place.name + ".0123456789abcdef.part")
    stray.write_bytes(b"half")
    assert read(cache.open(url_of(shards[0]), size)) == shards[0].read_bytes()
    assert not stray.exists()


class OneShard:
    """A server of 1,000 bytes under each name; while they are fetched, something happens."""

    def __init__(self, happens: Callable[[str], None], *, replaces: bool = False) -> None:
        self.happens, self.replaces, self.fetches = happens, replaces, 0

    def call(self, name: str, _: str, path: str = "", **__: object) -> dict[str, object] | None:
        if name == "info":
            return {"size": 1000}
        self.fetches += 1
        self.happens("it begins")
        if self.replaces:
            Path(path).unlink(missing_ok=True)
        Path(path).write_bytes(b"x" * 1000)
        self.happens("it has come")
        return None

    def stand_in(self, patch: pytest.MonkeyPatch) -> None:
        for module in (pipeline.remote.cache, pipeline.remote.files):
            patch.setattr(module, "remote", lambda *_, **__: self)


@pytest.mark.parametrize("replaces", [False, True])
def test_a_part_stays_while_its_shard_is_fetched(tmp_path, monkeypatch, replaces) -> None:
    """Another process makes room at each moment; the client writes in place, or replaces the file."""
    os_open, making = os.open, []

    def make_room(_: str) -> None:
        making.append(True)
        Cache(tmp_path, 2000).make_room(10)
        making.clear()

    def opened(path, *how) -> int:
        descriptor = os_open(path, *how)
        if str(path).endswith(".part") and not making:
            make_room("there is a part")
        return descriptor

    server = OneShard(make_room, replaces=replaces)
    server.stand_in(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened)
        descriptor = Cache(tmp_path, 2000).open("s3://bucket/a.tar")
    assert read(descriptor) == b"x" * 1000 and server.fetches == 1


def test_a_part_goes_where_nobody_fetches_its_shard(tmp_path) -> None:
    cache, place = Cache(tmp_path, 2000), tmp_path / ("0" * 40)
    part = place.with_name(f"{place.name}.0123456789abcdef.part")
    part.write_bytes(b"half")
    with Cache(tmp_path, 2000)._locked(place, "the shard"):
        cache.make_room(10)
        assert part.exists()
    cache.make_room(10)
    assert not part.exists()


@pytest.mark.parametrize("moment", ["it begins", "it has come"])
def test_what_is_removed_by_hand_meanwhile_is_fetched_again(tmp_path, monkeypatch, moment) -> None:
    """And is not taken for a shard that the server does not have."""
    monkeypatch.setattr(pipeline.remote.client, "FIRST_PAUSE_S", 0.01)

    def remove(now: str) -> None:
        if (now, server.fetches) == (moment, 1):
            shutil.rmtree(tmp_path / "c")

    server = OneShard(remove)
    server.stand_in(monkeypatch)
    assert read(Cache(tmp_path / "c", 2000).open("s3://bucket/a.tar")) == b"x" * 1000
    assert server.fetches == 2


def test_files_of_others_in_the_folder_are_left_alone(tmp_path) -> None:
    """A folder that was named by mistake, or that others use too: only what the cache has made may go."""
    folder = tmp_path / "c"
    (folder / "thesis").mkdir(parents=True)
    for name in ("LICENSE", "download.part", "0" * 39):
        (folder / name).write_bytes(b"x" * 500)
    ours = folder / ("0" * 40)
    ours.write_bytes(b"x" * 500)
    Cache(folder, 1000).make_room(1000)
    names = {"thesis", "LICENSE", "download.part", "0" * 39}
    assert {path.name for path in folder.iterdir()} == {*names, "room.lock"}


def test_the_next_shard_is_fetched_while_this_one_is_read(shards, s3, at, tmp_path) -> None:
    at(s3)
    sizes = [path.stat().st_size for path in shards]
    with ShardFiles([url_of(path) for path in shards], sizes) as files:
        assert files.read(0, 0, 512) == shards[0].read_bytes()[:512]
        eventually(lambda: len(whole(tmp_path / "cache")) >= 2)
        assert files.limit == 4


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("64GiB", 64 << 30), ("1.5 GB", 1_500_000_000), ("2t", 2 * 10**12)]
)
def test_sizes_as_people_write_them(text, size) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "much", "5X", "-1", "1I"])
def test_sizes_that_are_none(text) -> None:
    with pytest.raises(ShardError, match=r"--cache-size .* is no size"):
        bytes_of(text)


@pytest.mark.parametrize("url", ["reference://x.tar", "file:///etc/passwd", "github://a:b@c/x.tar", "S4://b/x.tar"])
def test_schemes_that_open_other_things_are_refused(url) -> None:
    with pytest.raises(ShardError, match="unknown scheme"):
        expand([url])
