"""The strict tar reader: what real writers make is read, everything else is refused by name."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ShardError
from pipeline.shards.tar import BLOCK, TarMember, members
from tests.pictures import write_tar
from tests.tar_headers import END, header, padded, pax, record

CONTENT = [("a/000.jpg", b"x" * 700), ("a/000.cls", b"3"), ("a/001.jpg", b""), ("a/001.cls", b"4" * 512)]


def read(data: bytes, name: str = "x.tar") -> list[TarMember]:
    return list(members(io.BytesIO(data), name, len(data)))


def content(data: bytes) -> list[tuple[str, bytes]]:
    return [(member.name, data[member.offset : member.offset + member.size]) for member in read(data)]


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_tarfile_writes(tmp_path: Path, tar_format: int) -> None:
    long = "d" * 60 + "/" + "e" * 60 + "/f.jpg"
    wanted = [*CONTENT, (long, b"long"), ("grüße/日本.jpg", b"unicode")]
    data = write_tar(tmp_path / "x.tar", wanted, tar_format).read_bytes()
    assert content(data) == wanted


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_names_longer_than_a_header(tmp_path: Path, tar_format: int) -> None:
    wanted = [("n" * 300 + ".jpg", b"1"), ("short.jpg", b"2")]
    assert content(write_tar(tmp_path / "x.tar", wanted, tar_format).read_bytes()) == wanted


@pytest.mark.parametrize("tar_format", ["ustar", "gnu", "pax", "posix"])
def test_reads_what_tar_writes_and_skips_folders(tmp_path: Path, tar_format: str) -> None:
    folder = tmp_path / "in" / ("d" * 90)
    folder.mkdir(parents=True)
    (folder / "000.jpg").write_bytes(b"x" * 1000)
    subprocess.run(
        ["tar", f"--format={tar_format}", "-cf", str(tmp_path / "x.tar"), "-C", str(tmp_path / "in"), "."], check=True
    )
    assert content((tmp_path / "x.tar").read_bytes()) == [(f"./{'d' * 90}/000.jpg", b"x" * 1000)]


def test_reads_base_256_and_pax_sizes() -> None:
    binary = header(size=b"\x80" + (5).to_bytes(11, "big")) + padded(b"hello")
    assert content(binary + END) == [("a.jpg", b"hello")]
    said = pax(record(b"size", b"5"), record(b"mtime", b"1.5")) + header(size=0) + padded(b"hello")
    assert content(said + END) == [("a.jpg", b"hello")]


def test_reads_a_global_pax_header_that_names_nothing() -> None:
    assert content(pax(record(b"comment", b"hi"), kind=b"g") + header() + END) == [("a.jpg", b"")]


def test_zeros_after_the_end_are_padding() -> None:
    assert content(header() + END + bytes(100 * BLOCK)) == [("a.jpg", b"")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"",
            "at byte 0: the file ends without the two zero blocks of a whole tar: it was cut. Fetch or pack it again",
        ),
        (b"x" * 100, "100 bytes is no multiple of 512: the file was cut, or is no tar"),
        (b"x" * 512, "no tar header (the magic 'ustar' is absent): the file is damaged, or is no tar"),
        (
            gzip.compress(bytes(2000), mtime=0),
            "this is gzip, not a plain tar. Rows are read in place: decompress it first",
        ),
        (header(), "at byte 512: the file ends without the two zero blocks of a whole tar"),
        (header() + bytes(BLOCK), "at byte 512: one zero block where a whole tar ends in two"),
        (
            header() + END + header() + END,
            "data follow the end of the archive. Tars that were joined must be packed as one",
        ),
        (header(size=600) + bytes(512), "'a.jpg' claims 600 bytes, 512 are left: cut or damaged"),
        (header(size=2**33 - 1) + END, "claims 8,589,934,591 bytes, 1,024 are left"),
        (header(size=b"\x80" + b"\xff" * 11) + END, "bytes, 1,024 are left: cut or damaged"),
        (header(size=b"\xff" * 12) + END, "the header's size field"),
        (header(size=b"12345678901\0") + END, "size field b'12345678901\\x00' is no number"),
        (header(kind=b"1") + END, "a member is a hard link; only regular files are read"),
        (header(kind=b"2") + END, "a member is a symbolic link; only regular files are read"),
        (header(kind=b"3") + END, "a member is a character device"),
        (header(kind=b"6") + END, "a member is a named pipe"),
        (header(kind=b"S") + END, "a member is a sparse file"),
        (header(kind=b"Z") + END, "a member is of the unknown kind b'Z'"),
        (header(b"d/", 512, b"5") + bytes(512) + END, "the directory 'd/' has 512 bytes of data"),
        (header(b"../a.jpg") + END, "the member name '../a.jpg' has '..' in it"),
        (header(b"a/../b.jpg") + END, "has '..' in it"),
        (header(b"/etc/a.jpg") + END, "the member name '/etc/a.jpg' is absolute"),
        (header(b"C:a.jpg") + END, "is absolute"),
        (header(b"a\\b.jpg") + END, "has a backslash"),
        (header(b"a\nb.jpg") + END, "has a control character"),
        (header(b"a/NUL.jpg") + END, "is reserved on Windows"),
        (header(b"con") + END, "is reserved on Windows"),
        (header(b"a//b.jpg") + END, "has an empty part"),
        (header(b"a.jpg/") + END, "has an empty part"),
        (header(b"") + END, "has an empty part"),
        (header(b"\xff\xfe.jpg") + END, "the member name b'\\xff\\xfe.jpg' is not UTF-8"),
        (pax(record(b"path", b"b.jpg")) + END, "an extended header stands without its member"),
        (pax(record(b"path", b"/b.jpg")) + header() + END, "the member name '/b.jpg' is absolute"),
        (
            pax(record(b"path", b"a\0b")) + header() + END,
            "an extended header gives an empty name, or one with a zero byte",
        ),
        (pax(record(b"path", b"a"), record(b"path", b"b")) + header() + END, "a pax header says b'path' twice"),
        (pax(record(b"size", b"-1")) + header() + END, "the pax size b'-1' is no number"),
        (pax(record(b"size", b"99999")) + header() + END, "claims 99,999 bytes"),
        (pax(b"5 a=b") + header() + END, "a pax header is malformed"),
        (pax(b"99 path=b\n") + header() + END, "a pax header is malformed"),
        (pax(b"0 path=b\n") + header() + END, "a pax header is malformed"),
        (pax(b"\n") + header() + END, "a pax header is malformed"),
        (
            pax(record(b"GNU.sparse.major", b"1")) + header() + END,
            "asks for b'GNU.sparse.major=1\\n', which is not read",
        ),
        (pax(record(b"path", b"b")) * 2 + header() + END, "two extended headers for one member"),
        (pax(record(b"path", b"b"), kind=b"g") + header() + END, "gives one path or size to all members"),
        (header(b"L", 70_000, b"L") + bytes(70_144) + header() + END, "claims 70,000 bytes; 65,536 are allowed"),
        (header(b"L", 5001, b"L") + padded(b"n" * 5000) + header() + END, "a member's name has 5,000 bytes; 4,096 are"),
        (header(b"L", 300, b"L") + padded(b"n" * 300) + header() + END, "a long name does not end with a zero byte"),
        (header(b"L", 600, b"L") + bytes(512), "an extended header leaves the file: cut or damaged"),
    ],
)
def test_refuses(data: bytes, message: str) -> None:
    with pytest.raises(ShardError) as error:
        read(data)
    assert str(error.value).startswith("x.tar: at byte ")
    assert message in str(error.value)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "x.tar", CONTENT).read_bytes()
    whole = read(data)
    needed = 512 * 7 + 1024 + 512  # four headers, three blocks of data, the end
    for cut in range(0, len(data), 64):
        if cut % BLOCK == 0 and cut >= needed:
            assert read(data[:cut]) == whole  # only padding after the end is absent
        else:
            with pytest.raises(ShardError):
                read(data[:cut])
    assert cut > needed


def test_every_bit_of_a_header_counts(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "x.tar", CONTENT).read_bytes()
    whole, harmless = read(data), set()
    for place in range(BLOCK):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            try:
                assert read(bytes(flipped)) == whole
                harmless.add(place)
            except ShardError:
                pass
    assert harmless <= {148, 154, 155}  # how the checksum field is padded says nothing


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(ShardError):
        read(data)


def damaged(tar_format: int, sizes: list[int], changes: list[tuple[int, int, int]]) -> bytes:
    """A tar with some bytes (block, place, value) changed, and the checksums of its headers made right again."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tar_format) as tar:
        for name, size in zip(("a/000.jpg", "ü" * 60 + ".jpg", "m" * 98 + ".cls"), sizes, strict=True):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(b"z" * size))
    data = bytearray(stream.getvalue())
    for block, place, value in changes:
        data[(block * BLOCK + place) % len(data)] = value
    for start in range(0, len(data), BLOCK):
        header_block = data[start : start + BLOCK]
        if header_block[257:262] == b"ustar":
            data[start + 148 : start + 156] = b"%06o\0 " % (sum(header_block) - sum(header_block[148:156]) + 256)
    return bytes(data)


PLACES = st.one_of(st.integers(0, 511), st.sampled_from([0, 99, 124, 134, 135, 156, 257, 263, 345, 500]))
CHANGES = st.lists(st.tuples(st.integers(0, 12), PLACES, st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.lists(st.integers(0, 1100), min_size=3, max_size=3),
    CHANGES,
)
def test_damage_with_right_checksums_is_refused_or_read_as_tarfile_reads_it(
    tar_format: int, sizes: list[int], changes: list[tuple[int, int, int]]
) -> None:
    data = damaged(tar_format, sizes, changes)
    try:
        found = [(member.name, member.offset, member.size) for member in read(data)]
    except ShardError:
        return
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        known = [(info.name, info.offset_data, info.size) for info in tar if info.isreg()]
    assert found == known


def test_a_file_that_shrinks_while_it_is_read() -> None:
    data = header(size=10) + padded(b"0123456789") + END
    with pytest.raises(ShardError, match="the file ends without"):
        list(members(io.BytesIO(data[:512]), "x.tar", len(data)))


def test_struct_of_the_test_header() -> None:
    """The hand-made headers are what tarfile reads, so the refusals above are for the reason that they name."""
    with tarfile.open(fileobj=io.BytesIO(header(b"a.jpg", 5) + padded(b"hello") + END)) as tar:
        assert [(m.name, m.size) for m in tar] == [("a.jpg", 5)]
    assert struct.calcsize("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x") == BLOCK
