"""`stages.tile` and `pack --tiled` from the outside: the same rows and pixels, and nothing else changed."""

from __future__ import annotations

import io
import json
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.durable.folder import claimed
from pipeline.packing import retiling
from pipeline.packing.retiling import fingerprint
from pipeline.pictures.images import decode
from pipeline.pictures.jpeg_tiling import SIGN, SPANS
from pipeline.pictures.jpeg_tiling import tile as tile_jpeg
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.patterns import expand
from pipeline.shards.rows import payload_of
from stages import pack, tile
from tests.jpegs import sampled
from tests.pictures import class_folders, encoded, scene, write_tar


def run(main: object, *arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--workers", "0"])  # type: ignore[arg-type]


def done(main: object, *arguments: str | Path) -> str:
    result = run(main, *arguments)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()[-1]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def members(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as tar:
        return [(info, tar.extractfile(info).read() if info.isfile() else b"") for info in tar]  # type: ignore[union-attr]


def require_same_pictures(one: SampleIndex, other: SampleIndex) -> None:
    for name in ("shard_starts", "key_bytes", "key_starts", "key_hash", "classes", "widths", "heights"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    with one.files() as left, other.files() as right:
        for row in range(len(one)):
            assert np.array_equal(decode(payload_of(one, left, row)), decode(payload_of(other, right, row)))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = class_folders(tmp_path_factory.mktemp("tile") / "images", {"bee": 6, "cat": 6}, size=(150, 97))
    (folder / "bee" / "png.png").write_bytes(encoded(scene(1), "PNG"))
    (folder / "bee" / "progressive.jpg").write_bytes(encoded(scene(2), progressive=True))
    (folder / "cat" / "inks.jpg").write_bytes(encoded(scene(3), "JPEG", quality=90))
    return folder


@pytest.fixture(scope="module")
def plain(images: Path) -> Path:
    done(pack.main, "--images", images, "--out", images.parent / "plain", "--samples-per-shard", 8)
    return images.parent / "plain"


@pytest.fixture(scope="module")
def packed(images: Path) -> Path:
    out = images.parent / "packed"
    told = done(pack.main, "--images", images, "--out", out, "--samples-per-shard", 8, "--tiled")
    assert "13 tiled, whole: 1 PNG, 1 progressive" in told
    return out


def test_pack_tiled_holds_the_same_pictures(plain: Path, packed: Path) -> None:
    require_same_pictures(scan(expand([str(plain)])), scan(expand([str(packed)])))
    record = json.loads((packed / "pack.json").read_text())
    assert record["options"]["tiled"] is True and record["whole"] == {"PNG": 1, "progressive": 1}
    assert sum(data.count(SIGN) for data in files(packed).values()) == 13


def test_pack_without_it_writes_what_it_always_wrote(plain: Path) -> None:
    record = json.loads((plain / "pack.json").read_text())
    assert "whole" not in record and "tiled" not in record["options"]


def test_pack_tiled_is_found_again_and_never_taken_for_plain(images: Path, plain: Path, packed: Path) -> None:
    before = files(packed), files(plain)
    done(pack.main, "--images", images, "--out", packed, "--samples-per-shard", 8, "--tiled")
    result = run(pack.main, "--images", images, "--out", packed, "--samples-per-shard", 8)
    assert result.exit_code == 1 and "was packed with other options (tiled True against False)" in result.output
    result = run(pack.main, "--images", images, "--out", plain, "--samples-per-shard", 8, "--tiled")
    assert result.exit_code == 1 and "was packed with other options (tiled False against True)" in result.output
    assert (files(packed), files(plain)) == before


def test_tile_makes_of_packed_shards_what_pack_makes_of_images(plain: Path, packed: Path, tmp_path: Path) -> None:
    told = done(tile.main, "--shards", plain, "--out", tmp_path / "out")
    assert told.endswith("13 tiled, whole: 1 PNG, 1 progressive)")
    ours, theirs = files(tmp_path / "out"), files(packed)
    assert [name for name in ours if ours[name] != theirs[name]] == ["pack.json"]
    assert ours.keys() == theirs.keys()
    scan(expand([str(tmp_path / "out")]))  # held to the digests in its own pack.json


def test_shards_tiled_as_they_were_before_are_found_again(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, new = tmp_path / "out", tmp_path / "new"
    *_, before = SPANS
    with monkeypatch.context() as earlier:
        earlier.setattr("pipeline.packing.tiled.tile", partial(tile_jpeg, span=before))
        earlier.setattr("pipeline.packing.retiling.fingerprint", partial(fingerprint, span=before))
        first = done(tile.main, "--shards", plain, "--out", out)
    made = files(out)
    assert done(tile.main, "--shards", plain, "--out", out) == first and files(out) == made
    done(tile.main, "--shards", plain, "--out", new)
    assert files(new) != made
    require_same_pictures(scan(expand([str(new)])), scan(expand([str(out)])))


def test_tile_is_found_again(plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = done(tile.main, "--shards", plain, "--out", out)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()}
    assert done(tile.main, "--shards", plain, "--out", out) == first
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()} == before
    result = run(tile.main, "--shards", plain / "000000.tar", "--out", out)
    assert result.exit_code == 1 and "was tiled from other shards. Remove it" in result.output
    (out / "000001.tar").write_bytes(before[out / "000001.tar"][1][:-512])
    result = run(tile.main, "--shards", plain, "--out", out)
    assert result.exit_code == 1 and f"{out}/000001.tar is not as it was tiled. Remove {out}" in result.output


def test_of_two_runs_at_once_the_later_finds_what_the_other_made(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, told = tmp_path / "out", []

    def after_another(target: Path) -> object:
        monkeypatch.undo()
        told.append(done(tile.main, "--shards", plain, "--out", out))
        monkeypatch.setattr(retiling, "copy_tiled", lambda _: 1 / 0)
        return claimed(target)

    monkeypatch.setattr(retiling, "claimed", after_another)
    assert [done(tile.main, "--shards", plain, "--out", out)] == told
    assert list(tmp_path.iterdir()) == [out]


def test_workers_change_nothing(plain: Path, packed: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(tile.main, ["--shards", str(plain), "--out", str(tmp_path / "out"), "--workers", "2"])
    assert result.exit_code == 0, result.output
    tars = {name: data for name, data in files(tmp_path / "out").items() if name.endswith(".tar")}
    assert tars == {name: data for name, data in files(packed).items() if name.endswith(".tar")}


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_every_other_member_and_header_stays(tmp_path: Path, kind: int) -> None:
    """Long names, owners, times, folders, other fields, pictures that are no sample's, json in place of cls."""
    shard = tmp_path / "in" / "some.tar"
    shard.parent.mkdir()
    long = "d" * 60 + "/" + "é" * 20
    with tarfile.open(shard, "w", format=kind) as tar:
        info = tarfile.TarInfo("folder")
        info.type, info.mtime = tarfile.DIRTYPE, 77
        tar.addfile(info)
        for name, data in [
            ("a.jpg", sampled("420", 150, 97)),
            ("a.json", b'{"label": 3}'),
            ("a.mask.jpg", sampled("Gray", 150, 97)),
            ("a.txt", b"words"),
            (f"{long}.jpeg", sampled("444", 97, 150, seed=1)),
            (f"{long}.cls", b"1"),
            ("__meta__/x.jpg", sampled("420", 150, 97)),
            ("c.png", encoded(scene(1), "JPEG")),
        ]:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.uname = len(data), 1234567, 501, "somebody"
            tar.addfile(info, io.BytesIO(data))
    done(tile.main, "--shards", shard, "--out", tmp_path / "out")
    require_same_pictures(scan([str(shard)]), scan([str(tmp_path / "out" / "some.tar")]))
    old, new = members(shard), members(tmp_path / "out" / "some.tar")
    assert [info.name for info, _ in old] == [info.name for info, _ in new]
    changed = [one[0].name for one, other in zip(old, new, strict=True) if one[1] != other[1]]
    assert changed == ["a.jpg", f"{long}.jpeg", "c.png"]
    for (one, data), (other, found) in zip(old, new, strict=True):
        assert (one.mtime, one.uid, one.uname, one.mode, one.type) == (
            *(other.mtime, other.uid, other.uname, other.mode, other.type),
        )
        assert other.size == len(found) and (one.name in changed or data == found)


def test_a_size_in_a_pax_header_leaves_the_picture_whole(tmp_path: Path) -> None:
    data = sampled("420", 150, 97)
    shard = tmp_path / "in.tar"
    info = tarfile.TarInfo("a.jpg")
    info.size, info.pax_headers = len(data), {"size": str(len(data))}
    block = info.tobuf(tarfile.PAX_FORMAT)
    wrong = tarfile.TarInfo("a.jpg")
    shard.write_bytes(block[:-512] + wrong.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512 + 1024))
    told = done(tile.main, "--shards", shard, "--out", tmp_path / "out")
    assert told.endswith("0 tiled, whole: 1 its size stands in a pax header)")
    assert (tmp_path / "out" / "in.tar").read_bytes() == shard.read_bytes()


def test_a_damaged_picture_stays_as_it_is(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "in.tar", [("a.jpg", sampled("420", 150, 97)[:1500]), ("b.jpg", b"\xff\xd8\xff")])
    told = done(tile.main, "--shards", shard, "--out", tmp_path / "out")
    assert "0 tiled, whole: 2 not understood" in told
    assert (tmp_path / "out" / "in.tar").read_bytes() == shard.read_bytes()


def refused(*arguments: str | Path) -> str:
    result = run(tile.main, *arguments)
    assert result.exit_code == 1, result.output
    return result.output


def test_what_cannot_be_tiled_is_refused(plain: Path, tmp_path: Path) -> None:
    assert f"--out {plain} is the folder of 000000.tar itself. Name a new folder." in refused(
        "--shards", plain, "--out", plain
    )
    other = tmp_path / "other"
    other.mkdir()
    (other / "000000.tar").write_bytes((plain / "000001.tar").read_bytes())
    assert "two of the shards are called 000000.tar" in refused(
        *("--shards", plain, "--shards", other, "--out", tmp_path / "out")
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_bytes(b"")
    assert "holds 1 files that pack did not write (mine)" in refused("--shards", other, "--out", tmp_path / "full")
    (other / "000000.tar").write_bytes((plain / "000001.tar").read_bytes()[:-700])
    assert "000000.tar: at byte" in refused("--shards", other, "--out", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "other"]
    (other / "pack.json").write_text(json.dumps({"shards": {"000000.tar": {"sha256": "0" * 64}}}))
    assert "is not as it was packed: its sha256 is" in refused("--shards", other, "--out", tmp_path / "out")


def test_pack_refuses_a_folder_that_tile_made(images: Path, plain: Path, tmp_path: Path) -> None:
    done(tile.main, "--shards", plain, "--out", tmp_path / "out")
    result = run(pack.main, "--images", images, "--out", tmp_path / "out", "--samples-per-shard", 8)
    assert result.exit_code == 1 and "pack.json is not as pack wrote it" in result.output
    result = run(tile.main, "--shards", tmp_path / "out", "--out", plain)
    assert result.exit_code == 1 and "holds shards that were not made by tiling others" in result.output
