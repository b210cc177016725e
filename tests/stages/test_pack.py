"""`stages.pack` from the outside: real folders in, real shards out, and what a user is told when it cannot be."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from click.testing import CliRunner, Result

from pipeline.durable.folder import claimed
from pipeline.errors import ShardError
from pipeline.packing import writing
from pipeline.pictures.images import decode
from pipeline.shards.index import scan
from pipeline.shards.patterns import expand
from pipeline.shards.rows import payload_of
from stages.pack import main
from tests import pictures
from tests.pictures import class_folders, encoded, scene

SMALL = (24, 18)


def run(*arguments: str | Path, workers: int = 0) -> Result:
    return CliRunner().invoke(main, [*(str(argument) for argument in arguments), "--workers", str(workers)])


def packed(*arguments: str | Path, workers: int = 0) -> Result:
    result = run(*arguments, workers=workers)
    assert result.exit_code == 0, result.output
    return result


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("pack") / "images", {"bee": 9, "cat": 8, "dog": 8}, size=SMALL)


@pytest.fixture(scope="module")
def out(images: Path) -> Path:
    packed("--images", images, "--out", images.parent / "out", "--samples-per-shard", 10)
    return images.parent / "out"


def test_what_is_packed_is_what_a_scan_reads(images: Path, out: Path) -> None:
    index = scan(expand([f"{out}/*.tar"]))
    assert [Path(url).name for url in index.urls] == ["000000.tar", "000001.tar", "000002.tar"]
    assert np.diff(index.shard_starts).tolist() == [8, 8, 9]
    assert index.class_names == ("bee", "cat", "dog")
    with index.files() as shards:
        for row in range(len(index)):
            source = images / f"{index.key(row)}.jpg"
            assert payload_of(index, shards, row) == source.read_bytes()
            assert index.class_names[index.classes[row]] == source.parent.name
    assert len({index.key(row) for row in range(len(index))}) == 25


def test_webdataset_reads_it(out: Path) -> None:
    index = scan(expand([f"{out}/*.tar"]))
    shards = [str(path) for path in sorted(out.glob("*.tar"))]
    data = (
        webdataset.WebDataset(shards, shardshuffle=False)
        .decode("rgb8", only=["jpg", "cls"])
        .to_tuple("__key__", "jpg", "cls")
    )
    seen = list(data)
    assert [key for key, _, _ in seen] == [index.key(row) for row in range(len(index))]
    assert [label for _, _, label in seen] == index.classes.tolist()
    with index.files() as files_of:
        assert np.array_equal(seen[3][1], decode(payload_of(index, files_of, 3)))


def test_the_summary_tells_what_was_made(images: Path, out: Path, tmp_path: Path) -> None:
    result = packed("--images", images, "--out", tmp_path / "again", "--samples-per-shard", 10)
    total = sum(path.stat().st_size for path in (tmp_path / "again").glob("*.tar"))
    assert result.stdout == (
        f"shards: {tmp_path}/again (25 images in 3 tars, {total / 1e6:.1f} MB; 3 classes of 8 to 9; 0 unlabelled)\n"
    )
    assert "check  25/25 images | 100.0% |" in result.stderr
    assert "write  25/25 images | 100.0% |" in result.stderr
    summary = json.loads((out / "pack.json").read_text())
    assert summary["images"] == 25
    assert summary["per_class"] == {"bee": 9, "cat": 8, "dog": 8}
    assert list(summary["shards"]) == ["000000.tar", "000001.tar", "000002.tar"]
    assert json.loads((out / "classes.json").read_text()) == {"classes": ["bee", "cat", "dog"]}


def test_the_same_images_are_the_same_bytes(images: Path, out: Path, tmp_path: Path) -> None:
    """However the files were created, and by however many workers."""
    copy = tmp_path / "copy"
    for path in sorted(images.rglob("*.jpg"), reverse=True):
        (copy / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy / path.parent.name)
    packed("--images", copy, "--out", tmp_path / "out", "--samples-per-shard", 10, workers=2)
    assert files(tmp_path / "out") == files(out)
    assert not list(tmp_path.glob(".*"))


def test_every_cut_and_every_changed_bit_of_packed_shards_is_noticed(out: Path, tmp_path: Path) -> None:
    """Labels too, for which a tar has no checksum: the shards are held to pack.json."""
    for path in out.iterdir():
        shutil.copy(path, tmp_path)
    shard = tmp_path / "000001.tar"
    data = shard.read_bytes()
    changes = [data[:cut] for cut in range(512, len(data), 512)]
    first_label = data.index(b".cls") // 512 * 512 + 512
    places = [first_label, *np.random.default_rng(0).integers(0, len(data), 60).tolist()]
    changes += [data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :] for place in places]
    for changed in changes:
        shard.write_bytes(changed)
        with pytest.raises(ShardError, match=r"000001.tar is not as it was packed: its sha256 is"):
            scan(expand([f"{tmp_path}/*.tar"]))
    shard.write_bytes(data)
    assert len(scan(expand([f"{tmp_path}/*.tar"]))) == 25


def test_the_seed_moves_rows_and_not_keys(images: Path, out: Path, tmp_path: Path) -> None:
    packed("--images", images, "--out", tmp_path / "out", "--seed", 1)
    one, two = (scan(expand([f"{folder}/*.tar"])) for folder in (out, tmp_path / "out"))
    keys = [[index.key(row) for row in range(25)] for index in (one, two)]
    assert keys[0] != keys[1]
    assert sorted(keys[0]) == sorted(keys[1])
    assert keys[0] != sorted(keys[0])


def test_an_added_image_moves_no_other(images: Path, out: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "in")
    (tmp_path / "in" / "cat" / "new.jpg").write_bytes(pictures.jpeg(99, *SMALL))
    packed("--images", tmp_path / "in", "--out", tmp_path / "out")
    keys = [
        [index.key(row) for row in range(len(index))]
        for index in (scan(expand([f"{f}/*.tar"])) for f in (out, tmp_path / "out"))
    ]
    assert [key for key in keys[1] if key != "cat/new"] == keys[0]


def odd_folder(root: Path) -> Path:
    class_folders(root, {"cat": 2}, size=SMALL)
    for name, data in {
        "animated.png": pictures.animation("PNG", 2, *SMALL),
        "cmyk.jpg": encoded(pictures.opened(pictures.jpeg(5, *SMALL)).convert("CMYK"), "JPEG"),
        "really_png.jpg": encoded(scene(6, *SMALL), "PNG"),
        "turned.jpg": pictures.with_orientation(7, 6, width=24, height=18),
        "wide.webp": encoded(scene(8, 60, 20), "WEBP"),
    }.items():
        (root / "cat" / name).write_bytes(data)
    return root


def test_odd_images_are_made_anew_and_counted(tmp_path: Path) -> None:
    root = odd_folder(tmp_path / "in")
    result = packed("--images", root, "--out", tmp_path / "out", "--max-side", 40)
    assert "1 classes of 7; 0 unlabelled; made anew: 1 CMYK, 1 animated, 1 large, 1 rotated)" in result.stdout
    index = scan(expand([f"{tmp_path}/out/*.tar"]))
    sizes = {index.key(row): (int(index.widths[row]), int(index.heights[row])) for row in range(len(index))}
    assert sizes["cat/turned"] == (18, 24)
    assert sizes["cat/wide"] == (40, 13)
    names = subprocess.run(
        ["tar", "-tf", tmp_path / "out" / "000000.tar"], capture_output=True, text=True, check=True
    ).stdout
    assert "cat/really_png.png\n" in names
    assert "cat/animated.jpg\n" in names


BAD = {
    "cat/empty.jpg": (b"", "is empty (0 bytes)"),
    "cat/page.jpg": (b"<!DOCTYPE html>", "looks like HTML; only JPEG, PNG and WebP are read"),
    "dog/bomb.png": (pictures.bomb_png(), "has 12000 × 12000 pixels, 144,000,000 in all; 64,000,000 are allowed"),
    "dog/photo.gif": (pictures.animation("GIF"), "looks like GIF; only JPEG, PNG and WebP are read"),
}


def spoiled(images: Path, root: Path) -> Path:
    shutil.copytree(images, root)
    for name, (data, _) in BAD.items():
        (root / name).write_bytes(data)
    (root / "dog" / "lost.png").symlink_to(root / "nowhere")
    return root


def test_all_bad_images_are_named_at_once_and_nothing_is_left(images: Path, tmp_path: Path) -> None:
    root = spoiled(images, tmp_path / "in")
    result = run("--images", root, "--out", tmp_path / "out", workers=2)
    assert result.exit_code == 1
    listed = "\n".join(f"  {name}: {reason}" for name, (_, reason) in BAD.items() if name != "dog/photo.gif")
    assert result.stderr.endswith(
        f"error: 5 of 30 images cannot be packed:\n{listed}\n  dog/lost.png: cannot be read: No such file or "
        "directory\n  dog/photo.gif: looks like GIF; only JPEG, PNG and WebP are read\nMend or remove them, or leave "
        "them out by --on-bad skip, which lists them in rejected.csv.\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_skipping_is_packing_without_them(images: Path, out: Path, tmp_path: Path) -> None:
    root = spoiled(images, tmp_path / "in")
    result = packed("--images", root, "--out", tmp_path / "out", "--samples-per-shard", 10, "--on-bad", "skip")
    assert "5 rejected (rejected.csv))" in result.stdout
    found, clean = files(tmp_path / "out"), files(out)
    rejected = found.pop("rejected.csv").decode().splitlines()
    assert rejected[:2] == ["path,reason", "cat/empty.jpg,is empty (0 bytes)"]
    assert len(rejected) == 6
    assert {name: data for name, data in found.items() if name != "pack.json"} == {
        name: data for name, data in clean.items() if name != "pack.json"
    }
    again = run("--images", root, "--out", tmp_path / "out", "--samples-per-shard", 10)
    assert again.exit_code == 1
    assert (
        f"error: {tmp_path}/out lacks 5 images that rejected.csv lists. Allow that by --on-bad skip.\n" in again.stderr
    )


def test_a_class_must_not_vanish(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "in", {"cat": 2, "dog": 1}, size=SMALL)
    (root / "dog" / "0000.jpg").write_bytes(b"")
    result = run("--images", root, "--out", tmp_path / "out", "--on-bad", "skip")
    assert result.exit_code == 1
    assert result.stderr.endswith(
        "error: no image of dog can be packed:\n  dog/0000.jpg: is empty (0 bytes)\nMend them, or remove the class.\n"
    )


def test_packing_again_does_nothing(images: Path, out: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    result = packed("--images", images, "--out", out, "--samples-per-shard", 10)
    assert result.stdout.startswith(f"shards: {out} (25 images in 3 tars")
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    (out / ".lock").touch()  # as a run leaves it that is killed in its very last step
    packed("--images", images, "--out", out, "--samples-per-shard", 10)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.parametrize("change", ["options", "damage"])
def test_shards_are_set_aside_once_others_are_whole(images: Path, out: Path, tmp_path: Path, change: str) -> None:
    mine, words = shutil.copytree(out, tmp_path / "out"), ["--samples-per-shard", 10 if change == "damage" else 5]
    if change == "damage":
        (mine / "000001.tar").write_bytes(b"half")
    before = files(mine)
    (tmp_path / "none").mkdir()
    assert run("--images", tmp_path / "none", "--out", mine, *words, "--if-changed", "rebuild").exit_code == 1
    assert files(mine) == before and not (tmp_path / "out.previous").exists(), "nothing takes their place"
    packed("--images", images, "--out", mine, *words, "--if-changed", "rebuild")
    assert files(tmp_path / "out.previous") == before
    packed("--images", images, "--out", tmp_path / "fresh", *words)
    assert files(mine) == files(tmp_path / "fresh")
    for samples in (4, 3):
        packed("--images", images, "--out", mine, "--samples-per-shard", samples, "--if-changed", "rebuild")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fresh", "none", "out", "out.previous"], "one generation"


@pytest.mark.parametrize("earlier", [True, False])
def test_of_two_runs_at_once_the_later_finds_what_the_other_made(
    images: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    mine, words = tmp_path / "out", ["--samples-per-shard", 5, "--if-changed", "rebuild"]
    if earlier:
        shutil.copytree(out, mine)
    made = {}

    def after_another(target: Path) -> object:
        monkeypatch.undo()
        packed("--images", images, "--out", mine, *words)
        made.update({path: path.stat().st_mtime_ns for path in mine.iterdir()})
        return claimed(target)

    monkeypatch.setattr(writing, "claimed", after_another)
    packed("--images", images, "--out", mine, *words)
    assert made and {path: path.stat().st_mtime_ns for path in mine.iterdir()} == made
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.previous"][: 1 + earlier]
    assert not earlier or files(tmp_path / "out.previous") == files(out)


def test_other_options_images_or_files_are_refused(images: Path, out: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(out, tmp_path / "out")
    result = run("--images", images, "--out", mine, "--samples-per-shard", 5, "--max-side", 20)
    assert result.stderr == (
        f"error: {mine} was packed with other options (samples_per_shard 10 against 5; max_side None against 20). "
        "Remove it, or choose another --out.\n"
    )
    shutil.copytree(images, tmp_path / "in")
    (tmp_path / "in" / "cat" / "0000.jpg").write_bytes(pictures.jpeg(50, *SMALL))
    result = run("--images", tmp_path / "in", "--out", mine, "--samples-per-shard", 10)
    assert result.exit_code == 1
    assert f"error: {mine} was packed from other images or classes: 25 images then (" in result.stderr
    shard = mine / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    result = run("--images", images, "--out", mine, "--samples-per-shard", 10)
    assert f"error: {shard} is not as it was packed. Remove {mine}, and pack again.\n" in result.stderr
    (mine / "pack.json").write_text("{}")
    result = run("--images", images, "--out", mine, "--samples-per-shard", 10)
    assert result.stderr == (
        f"error: {mine}/pack.json is not as pack wrote it. Remove {mine} and pack again, or choose another --out.\n"
    )


def test_a_folder_of_others_is_refused(images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "000000.tar").write_bytes(b"mine")
    result = run("--images", images, "--out", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: {tmp_path}/out holds 1 files that pack did not write (000000.tar). Name a new folder by --out.\n",
    )
    result = run("--images", images, "--out", tmp_path / "out" / "000000.tar")
    taken = f"{tmp_path}/out/000000.tar"
    assert result.stderr == f"error: --out {taken}: {taken} is a file, and a folder is needed there. Name a new one.\n"
    assert files(tmp_path / "out") == {"000000.tar": b"mine"}


def test_an_empty_folder_or_a_link_to_one_is_filled(images: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    packed("--images", images, "--out", tmp_path / "link", "--samples-per-shard", 10)
    assert files(tmp_path / "real") == files(out)
    assert (tmp_path / "link").is_symlink()
    shutil.rmtree(tmp_path / "real")  # or set aside by a run that was killed before others took its place
    packed("--images", images, "--out", tmp_path / "link", "--samples-per-shard", 10)
    assert files(tmp_path / "real") == files(out)


def test_wrong_flags_are_usage_errors(images: Path, tmp_path: Path) -> None:
    for arguments, message in {
        (): "nothing to pack: give --images, --csv or --unlabelled.",
        (
            "--csv",
            "a.csv",
            "--unlabelled",
            "x",
        ): "--unlabelled does not go with --csv: list those images in it, with an empty class.",
        ("--images", images, "--quality", 0): "Invalid value for '--quality': 0 is not in the range 1<=x<=100.",
    }.items():
        result = run("--out", tmp_path / "out", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
    result = run("--images", images, "--out", images / "out")
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: --out {images}/out lies in {images}, and would be packed itself. Choose another --out.\n",
    )


def test_tables_and_unlabelled_images(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "in", {"cat": 2, "more": 3}, size=SMALL)
    result = packed("--images", root, "--unlabelled", root / "more", "--out", tmp_path / "a")
    assert "(5 images in 1 tars, 0.0 MB; 1 classes of 2; 3 unlabelled)" in result.stdout
    class_folders(tmp_path / "in" / "labelled", {"dog": 2}, size=SMALL)
    result = packed("--images", root / "labelled", "--unlabelled", root, "--out", tmp_path / "c")
    assert "(7 images in 1 tars, 0.0 MB; 1 classes of 2; 5 unlabelled)" in result.stdout
    (tmp_path / "list.csv").write_text("path,class\ncat/0000.jpg,4\nmore/0001.jpg,\n")
    packed("--images", root, "--csv", tmp_path / "list.csv", "--out", tmp_path / "b")
    index = scan([str(tmp_path / "b" / "000000.tar")])
    assert {index.key(row): int(index.classes[row]) for row in range(2)} == {"cat/0000": 4, "more/0001": -1}
    assert index.class_names is None
    assert not (tmp_path / "b" / "classes.json").exists()


def command(images: Path, out: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "stages.pack",
        "--images",
        str(images),
        "--out",
        str(out),
        "--samples-per-shard",
        "10",
    ]


def test_killed_at_any_time_the_next_run_ends_the_same(images: Path, out: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    start = time.monotonic()
    subprocess.run([*command(images, tmp_path / "timed"), "--workers", "1"], check=True, capture_output=True)
    duration = time.monotonic() - start
    for share in (0.5, 0.7, 0.85, 0.95):
        process = subprocess.Popen([*command(images, target), "--workers", "1"], stderr=subprocess.DEVNULL)
        time.sleep(duration * share)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not target.exists() or files(target).keys() - {".lock"} == files(out).keys()
    packed("--images", images, "--out", target, "--samples-per-shard", 10)
    assert files(target) == files(out)
    assert not list(tmp_path.glob(".*"))


def test_what_a_killed_run_left_is_swept(images: Path, out: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.packing"
    (left / "folder").mkdir(parents=True)
    (left / "000000.tar").write_bytes(b"half")
    (left / ".lock").touch()
    packed("--images", images, "--out", tmp_path / "out", "--samples-per-shard", 10)
    assert files(tmp_path / "out") == files(out)
    assert not left.exists()


def test_a_second_packer_is_told(images: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with claimed(tmp_path / "out"):
                os.write(write, b"x")
                time.sleep(60)
        finally:
            os._exit(1)
    os.read(read, 1)
    result = run("--images", images, "--out", tmp_path / "out")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert result.exit_code == 1
    assert (
        f"error: {tmp_path}/out is being written by another process. Wait for it, or choose another --out.\n"
        in result.stderr
    )
    packed("--images", images, "--out", tmp_path / "out")


def test_a_full_disk_is_told_and_leaves_nothing(images: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the write fails in the same place."""
    done = subprocess.run(
        [*command(images, tmp_path / "out"), "--workers", "0"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"error: {tmp_path}/out cannot be written: File too large. Nothing was kept; mend that and run again.\n"
    )
    assert list(tmp_path.iterdir()) == []
