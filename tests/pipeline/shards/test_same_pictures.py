"""Labels of plain shards serve tiled ones of the same pictures, and the other way round; nothing else does."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import MismatchError, ShardError
from pipeline.pictures.jpeg_tiling import SPAN, SPANS, NotPlainError, Sign, read_header, sign_of, tile
from pipeline.shards import same_pictures
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.rows import payload_of
from pipeline.shards.same_pictures import moved_to
from tests.jpegs import sampled
from tests.pictures import encoded, scene, write_tar

ROWS = 9
PICTURES = [sampled("420", 150, 97, seed=row) for row in range(ROWS - 1)] + [
    encoded(scene(9, 150, 97), progressive=True)
]


def tiled(payload: bytes, span: int = SPAN) -> bytes:
    try:
        return tile(payload, span=span)
    except NotPlainError:
        return payload


def indexed(
    path: Path, pictures: list[bytes], *, key: str = "row", label: Callable[[int], int] = lambda row: row % 3
) -> SampleIndex:
    path.mkdir()
    urls = []
    for number, start in enumerate((0, 4)):
        rows = range(start, (4, len(pictures))[number])
        members = [
            item
            for row in rows
            for item in ((f"{key}{row}.jpg", pictures[row]), (f"{key}{row}.cls", b"%d" % label(row)))
        ]
        urls.append(str(write_tar(path / f"{number}.tar", members)))
    return scan(urls)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> SampleIndex:
    return indexed(tmp_path_factory.mktemp("same") / "plain", PICTURES)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> SampleIndex:
    return indexed(tmp_path_factory.mktemp("same") / "tiled", [tiled(picture) for picture in PICTURES])


@pytest.mark.parametrize("way", ["tiled", "plain"])
def test_one_stands_for_the_other(plain: SampleIndex, other: SampleIndex, way: str) -> None:
    index, found = (plain, other) if way == "tiled" else (other, plain)
    assert index.digest() != found.digest()
    moved = moved_to(index, found.urls)
    assert (moved.digest(), moved.urls, moved.stands_for) == (index.digest(), found.urls, index.digest())
    assert np.array_equal(moved.offsets, found.offsets)
    again = pickle.loads(pickle.dumps(moved))
    assert again.digest() == index.digest() and np.array_equal(again.payload_crc, found.payload_crc)
    with moved.files() as files:
        assert [payload_of(moved, files, row) for row in range(ROWS)] == [
            payload_of(found, found.files(), row) for row in range(ROWS)
        ]


def test_pictures_tiled_as_they_were_before_stand_for_plain_ones_too(plain: SampleIndex, tmp_path: Path) -> None:
    """Every width that segments were ever written in is tried; a width of nobody's is another picture."""
    for span in (*SPANS, 16):
        index = indexed(tmp_path / f"{span}", [tiled(picture, span) for picture in PICTURES])
        assert index.digest() not in (plain.digest(), None)
        if span in SPANS:
            assert moved_to(index, plain.urls).digest() == index.digest()
        else:
            assert "have other pictures: that of row 0 ('row0')" in refusal(index, plain)


def refusal(index: SampleIndex, found: SampleIndex) -> str:
    with pytest.raises(MismatchError) as error:
        moved_to(index, found.urls)
    return str(error.value).replace(found.urls[0], "FOUND").replace(index.urls[0], "KNOWN")


def test_other_rows_keys_classes_and_sizes_are_refused(plain: SampleIndex, tmp_path: Path) -> None:
    both = "FOUND … and the shards that were indexed (KNOWN …) have"
    assert refusal(plain, indexed(tmp_path / "rows", [*PICTURES, PICTURES[0]])) == (
        f"{both} other numbers of rows. Name shards of the same pictures."
    )
    wrong = indexed(tmp_path / "classes", [tiled(picture) for picture in PICTURES], label=lambda row: int(row == 7))
    assert refusal(plain, wrong) == f"{both} other classes. Name shards of the same pictures."
    wide = [*PICTURES[:-1], sampled("420", 151, 97)]
    assert refusal(plain, indexed(tmp_path / "wide", wide)) == (
        f"{both} pictures of other sizes. Name shards of the same pictures."
    )
    swapped = [tiled(PICTURES[row]) for row in range(ROWS)]
    assert "bytes, the shard that was indexed" in refusal(plain, indexed(tmp_path / "keys", swapped, key="x"))


@pytest.mark.parametrize("way", ["tiled", "plain", "forged crc", "forged length"])
def test_another_picture_is_refused_with_its_row(
    plain: SampleIndex, other: SampleIndex, tmp_path: Path, way: str
) -> None:
    """One that is the same but for its pixels."""
    changed, index = list(PICTURES), plain
    changed[5] = sampled("420", 150, 97, seed=77)
    if way == "plain":
        index = other
    else:
        changed = [tiled(picture) for picture in changed]
    if way.startswith("forged"):
        changed[5] = resigned(tiled(PICTURES[5]), way)
    assert refusal(index, indexed(tmp_path / "changed", changed)) == (
        "FOUND … and the shards that were indexed (KNOWN …) have other pictures: that of row 5 ('row5') is not the "
        "other one, tiled or plain. Name shards of the same pictures."
    )


def resigned(payload: bytes, way: str) -> bytes:
    """A tiled payload that says that it was made from another."""
    sign = sign_of(payload, read_header(payload))
    assert sign is not None
    crc, length = (sign.crc ^ 1, sign.length) if way == "forged crc" else (sign.crc, sign.length + 1)
    changed = Sign(crc=crc, length=length, rest=sign.rest, length_G=sign.length_G)
    assert payload.count(sign.to_bytes()) == 1
    return payload.replace(sign.to_bytes(), changed.to_bytes())


def test_a_picture_that_stayed_whole_must_be_the_same(other: SampleIndex, tmp_path: Path) -> None:
    changed = [*PICTURES[:-1], encoded(scene(10, 150, 97), progressive=True)]
    assert "that of row 8 ('row8')" in refusal(other, indexed(tmp_path / "changed", changed))


def test_many_plain_pictures_are_sampled(
    plain: SampleIndex, other: SampleIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(same_pictures, "TILED_AGAIN", 3)
    again = same_pictures.tile
    monkeypatch.setattr(same_pictures, "tile", lambda payload, span: seen.append(payload) or again(payload, span=span))
    moved_to(other, plain.urls)
    assert len(set(seen)) == 3


def test_what_a_payload_says_is_found_behind_a_long_header(plain: SampleIndex, tmp_path: Path) -> None:
    comment = b"\xff\xfe\xff\xff" + bytes(0xFFFD)
    long = [picture[:2] + comment + picture[2:] for picture in PICTURES]
    index = indexed(tmp_path / "plain", long)
    found = indexed(tmp_path / "tiled", [tiled(picture) for picture in long])
    assert moved_to(index, found.urls).digest() == index.digest()


def test_a_damaged_shard_is_told(plain: SampleIndex, other: SampleIndex, tmp_path: Path) -> None:
    cut = tmp_path / "1.tar"
    cut.write_bytes(Path(other.urls[1]).read_bytes()[: 5 * 1024])
    with pytest.raises(ShardError, match=r"1\.tar: at byte .* cut"):
        moved_to(plain, [other.urls[0], str(cut)])
