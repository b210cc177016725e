"""Patterns to shards, and bytes of shards."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ShardError
from pipeline.remote.client import SCHEMES
from pipeline.shards.files import ShardFiles
from pipeline.shards.patterns import expand


def touch(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return [str(folder / name) for name in names]


def test_ranges_keep_their_zeros_and_their_order(tmp_path: Path) -> None:
    paths = touch(tmp_path, "008.tar", "009.tar", "010.tar")
    assert expand([f"{tmp_path}/{{008..010}}.tar"]) == tuple(paths)
    assert expand([f"{tmp_path}/{{010..008}}.tar"]) == tuple(reversed(paths))


@pytest.mark.parametrize(
    ("pattern", "items"),
    [
        ("s3://b/{0..2}.tar", "0 1 2"),
        ("s3://b/{08..10}.tar", "08 09 10"),
        ("s3://b/{8..010}.tar", "008 009 010"),
        ("s3://b/{0..10..5}.tar", "0 5 10"),
        ("s3://b/{b..a}.tar", "b a"),
        ("s3://b/{x,{1..2},y{a,b}}.tar", "x 1 2 ya yb"),
        ("s3://b/{a,b}{1,2}.tar", "a1 a2 b1 b2"),
        ("s3://b/{a,}.tar", "a "),
        ("s3://b/{a}.tar", "{a}"),
        ("s3://b/plain.tar", "plain"),
    ],
)
def test_braces_mean_what_a_shell_makes_of_them(pattern: str, items: str) -> None:
    assert expand([pattern]) == tuple(f"s3://b/{item}.tar" for item in items.split(" "))


def test_globs_are_sorted_and_values_keep_their_order(tmp_path: Path) -> None:
    a, b, c = touch(tmp_path, "a/2.tar", "a/1.tar", "b/0.tar")
    (tmp_path / "a" / ".000000.tar.part").write_bytes(b"unfinished")
    assert expand([f"{tmp_path}/b/*.tar", f"{tmp_path}/a/*"]) == (c, b, a)
    assert expand([f"{tmp_path}/**/*.tar"]) == (b, a, c)
    assert expand([f"{tmp_path}/{{a,b}}/*.tar"]) == (b, a, c)


def test_a_name_that_exists_is_taken_literally(tmp_path: Path) -> None:
    paths = touch(tmp_path, "{0..2}.tar", "a[1].tar", "x*.tar", "xy.tar")
    for path in paths:
        assert expand([path]) == (path,)


def test_home_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.tar")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert expand(["~/a.tar"]) == (str(tmp_path / "a.tar"),)
    assert expand(["./a.tar"]) == ("a.tar",)


@pytest.mark.parametrize("name", ["train", "[1] a", "a.tar"])
def test_a_folder_means_the_tars_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / name / "inner").mkdir(parents=True)
    touch(tmp_path / name, "b.tar", "a.tar", "notes.txt", "inner/c.tar")
    monkeypatch.chdir(tmp_path)
    expected = (f"{name}/a.tar", f"{name}/b.tar")
    assert expand([name]) == expand([f"{name}/"]) == expected, "as a glob would name them, relative and in order"


def test_refuses_what_is_no_shard(tmp_path: Path) -> None:
    (tmp_path / "empty.tar").touch()
    (tmp_path / "none").mkdir()
    (tmp_path / "folder.tar" / "x.tar").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "lost.tar").symlink_to(tmp_path / "nowhere")
    folder = str(tmp_path)
    for pattern, message in {
        f"{folder}/no.tar": f"nothing matches {folder}/no.tar: the folder {folder} has no such file. Name the tars, "
        "such as 'data/train/*.tar'.",
        f"{folder}/x/no.tar": f"nothing matches {folder}/x/no.tar: there is no folder {folder}/x. Name the tars, "
        "such as 'data/train/*.tar'.",
        f"{folder}/*.zip": f"nothing matches {folder}/*.zip: the folder {folder} has no such file. Name the tars, "
        "such as 'data/train/*.tar'.",
        f"{folder}/{{0..1}}.tar": f"nothing matches {folder}/0.tar (asked for by {folder}/{{0..1}}.tar): the folder "
        f"{folder} has no such file. Name the tars, such as 'data/train/*.tar'.",
        f"{folder}/a [1].tar": f"nothing matches {folder}/a [1].tar: the folder {folder} has no such file ([…] is a "
        "pattern, and [[] stands for a bracket). Name the tars, such as 'data/train/*.tar'.",
        f"{folder}/none": f"nothing matches {folder}/none/*.tar (asked for by {folder}/none): the folder {folder}/none "
        "has no such file. Name the tars, such as 'data/train/*.tar'.",
        f"{folder}/folder.tar": f"{folder}/folder.tar/x.tar is a folder, not a shard. Name the tars in it: "
        f"'{folder}/folder.tar/x.tar/*.tar'.",
        f"{folder}/empty.tar": f"{folder}/empty.tar is empty (0 bytes). Fetch or pack it again.",
        f"{folder}/pipe.tar": f"{folder}/pipe.tar is not a regular file; a shard must be one, because its rows are "
        "read in place.",
        f"{folder}/lost.tar": f"{folder}/lost.tar cannot be read: No such file or directory.",
        "pipe:cat x.tar": "'pipe:cat x.tar' would run a command, and none is run. Download the shards, then name the "
        "files.",
        "file://x.tar": "'file://x.tar': unknown scheme 'file'; known are " + ", ".join(SCHEMES) + ", and plain paths.",
        "": "'' is not a path. Give tars, globs or braces, such as 'data/train/*.tar'.",
        "a\0b": "'a\\x00b' is not a path. Give tars, globs or braces, such as 'data/train/*.tar'.",
        "s3://b/{0..9999999}.tar": "s3://b/{0..9999999}.tar asks for more than 1,000,000 shards.",
        "s3://b/{{0..1}.tar": "s3://b/{{0..1}.tar: its braces do not match, or are over 50.",
        "s3://b/}0{.tar": "s3://b/}0{.tar: its braces do not match.",
    }.items():
        with pytest.raises(ShardError) as error:
            expand([pattern])
        assert str(error.value) == message


def test_refuses_no_shards_and_one_shard_twice(tmp_path: Path) -> None:
    (path,) = touch(tmp_path, "a.tar")
    (tmp_path / "b.tar").symlink_to(path)
    with pytest.raises(
        ShardError, match=r"no shards were named. Give tars, globs or braces, such as 'data/train/\*.tar'."
    ):
        expand([])
    with pytest.raises(ShardError) as error:
        expand([path, f"{tmp_path}/b.tar"])
    assert (
        str(error.value)
        == f"{tmp_path}/b.tar is the same shard as {path}, and its rows would count twice. Name each once."
    )
    with pytest.raises(ShardError, match="is the same shard as"):
        expand(["s3://b/a.tar", "s3://b/{a,c}.tar"])


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="a0{},.-*[]/~:s", max_size=24))
def test_any_pattern_gives_shards_or_a_shard_error(pattern: str) -> None:
    try:
        expand([pattern])
    except ShardError as error:
        assert str(error)


def test_reads_in_place_with_few_open_files(tmp_path: Path) -> None:
    paths = touch(tmp_path, *(f"{number:03d}.tar" for number in range(20)))
    with ShardFiles(paths, limit=3) as files:
        before = open_files()
        for _ in range(2):
            for shard in range(20):
                assert files.read(shard, 0, 7) == b"%03d.tar" % shard
                assert files.read(shard, 4, 3) == b"tar"
        assert open_files() - before == (3 if before else 0)
        assert files.read(0, 0, 0) == b""


def open_files() -> int:
    table = Path("/proc/self/fd")
    return len(list(table.iterdir())) if table.exists() else 0


def test_survives_pickling_and_forking(tmp_path: Path) -> None:
    files = ShardFiles(touch(tmp_path, "a.tar"), [5])
    assert files.read(0, 0, 5) == b"a.tar"
    copy = pickle.loads(pickle.dumps(files))
    assert copy.read(0, 1, 4) == b".tar"
    child = os.fork()
    if child == 0:
        try:
            read = files.read(0, 2, 3)
            files.close()
            os._exit(0 if read == b"tar" and files.read(0, 0, 1) == b"a" else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert files.read(0, 0, 5) == b"a.tar"


def test_a_shard_that_changed_is_refused(tmp_path: Path) -> None:
    (path,) = touch(tmp_path, "a.tar")
    with pytest.raises(ShardError) as error:
        ShardFiles([path], [6]).read(0, 0, 5)
    assert str(error.value) == (
        f"{path} has 5 bytes, and had 6 when it was indexed: it is another file, or was changed. Restore it, or name "
        "the right one by --shards."
    )
    with pytest.raises(ShardError) as error:
        ShardFiles([path]).read(0, 2, 4)
    assert (
        str(error.value) == f"{path} ends at byte 5, a row reaches to 6: it was cut since it was indexed. Restore it."
    )
    files = ShardFiles([path])
    assert files.read(0, 0, 5) == b"a.tar"
    os.truncate(path, 3)
    with pytest.raises(ShardError, match="ends at byte 3, a row reaches to 5"):
        files.read(0, 0, 5)


def test_a_shard_that_went_away_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = str(tmp_path / "gone.tar")
    with pytest.raises(ShardError) as error:
        ShardFiles([path]).read(0, 0, 1)
    assert str(error.value) == (
        f"{path} cannot be opened: No such file or directory. If the shards were moved, name them by --shards."
    )
    for other in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ShardError, match="is not a regular file; name the right one by --shards"):
            ShardFiles([str(other)]).read(0, 0, 1)
