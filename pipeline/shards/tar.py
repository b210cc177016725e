"""Which regular files does a tar hold, and at which byte does the data of each begin?

The archive is walked header by header, and what is not exactly understood is refused: a checksum that does not fit, a
size that leaves the file, a name that could leave a folder, anything but regular files and (skipped) directories, and
an end without its two zero blocks. Readers that are lenient here drop samples without a word when a file is cut or a
header damaged. Nothing is unpacked, linked to or executed.

Read are ustar, GNU (``L`` long names, base-256 sizes) and pax (``path`` and ``size``; other records say nothing about
the data and are skipped): what tar, bsdtar, Python's tarfile and webdataset write. All bytes may be hostile: the only
exception is `ShardError`, and an extended header is read up to 64 KiB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from pipeline.errors import ShardError

BLOCK = 512
ZEROS = bytes(BLOCK)
MAX_EXTENDED = 64 * 1024
MAX_NAME = 4096

POSIX, GNU = b"ustar\x0000", b"ustar  \x00"
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
REFUSED_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"K": "a link",
    b"S": "a sparse file",
}
RESERVED = re.compile(r"(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.[^/]*)?(?=/|$)", re.IGNORECASE)
BAD_NAMES = (
    (re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"), "has a control character"),
    (re.compile(r"\\"), "has a backslash"),
    (re.compile(r"^(/|[A-Za-z]:)"), "is absolute"),
    (re.compile(r"(^|/)\.\.(/|$)"), "has '..' in it"),
    (re.compile(r"(^|/)\.?(/|$)"), "has an empty part"),
    (RESERVED, "is reserved on Windows"),
)
OCTAL = re.compile(rb" *([0-7]+)[ \x00]*")
UNUSED = re.compile(rb" *[0-7]*[ \x00]*|[\x80\xff].*", re.DOTALL)
UNUSED_FIELDS = {
    "mode": (100, 108),
    "owner": (108, 116),
    "group": (116, 124),
    "time": (136, 148),
    "major": (329, 337),
    "minor": (337, 345),
}
PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,5}) ")
PAX_SIZE = re.compile(rb"[0-9]{1,19}")
PAX_UTF8 = b"ISO-IR 10646 2000 UTF-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class TarMember:
    """A regular file in an archive: its name, and where its bytes lie."""

    name: str
    """Its path, exactly as stored."""
    offset: int
    """Where its data begin, in bytes from the start of the archive."""
    size: int
    """Bytes of data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    kind: bytes
    name: bytes
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Extended:
    """What extended headers have said about the member that follows."""

    name: bytes | None = None
    size: int | None = None
    seen: bool = False


NOTHING = _Extended()


def members(file: BinaryIO, name: str, size: int, start: int = 0, stop: int | None = None) -> Iterator[TarMember]:
    """The regular files of the archive `file` of `size` bytes, in order; `name` is for messages.

    With `stop` those alone whose headers stand in the bytes from `start`, which must be a header's first, to `stop`.
    """
    position, extended = start, NOTHING
    try:
        if stop is None:
            _require_plain_tar(file, size)
        while (stop is None or position < stop) and (block := _read(file, position, BLOCK)) != ZEROS:
            header = _parse(block)
            if header.kind in b"xgL":
                data = _read_extended(file, position, header, size)
                extended = _extend(extended, header.kind, data)
                position = _next(position, header.size)
                continue
            length = header.size if extended.size is None else extended.size
            member = _member(header, extended, position + BLOCK, length, size)
            if member is not None:
                yield member
            position, extended = _next(position, length), NOTHING
        if stop is None:
            _require_end(file, position, size, extended)
    except (ValueError, OSError) as error:
        raise ShardError(f"{name}: at byte {position:,}: {error}") from None


def _next(position: int, length: int) -> int:
    """Where the header after one at `position` with `length` bytes of data begins."""
    return position + BLOCK + -(-length // BLOCK) * BLOCK


def _read(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    data = file.read(count)
    if len(data) < count:
        raise ValueError("the file ends without the two zero blocks of a whole tar: it was cut. Fetch or pack it again")
    return data


def _require_plain_tar(file: BinaryIO, size: int) -> None:
    file.seek(0)
    start = file.read(8)
    for magic, kind in COMPRESSED.items():
        if start.startswith(magic):
            raise ValueError(f"this is {kind}, not a plain tar. Rows are read in place: decompress it first")
    if size % BLOCK:
        raise ValueError(f"{size:,} bytes is no multiple of {BLOCK}: the file was cut, or is no tar")


def _require_end(file: BinaryIO, position: int, size: int, extended: _Extended) -> None:
    if extended.seen:
        raise ValueError("an extended header stands without its member")
    if size - position < 2 * BLOCK:
        raise ValueError("one zero block where a whole tar ends in two: it was cut. Fetch or pack it again")
    while position < size:
        count = min(size - position, 1 << 20)
        if _read(file, position, count).strip(b"\x00"):
            raise ValueError("data follow the end of the archive. Tars that were joined must be packed as one")
        position += count


def _parse(block: bytes) -> _Header:
    """The fields of one header block, once its checksum fits."""
    if block[257:265] not in (POSIX, GNU):
        raise ValueError("no tar header (the magic 'ustar' is absent): the file is damaged, or is no tar")
    said, found = _number(block[148:156], "checksum"), sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if said != found:
        raise ValueError(f"the header's checksum says {said}, its bytes sum to {found}: the file is damaged")
    for what, (start, stop) in UNUSED_FIELDS.items():
        if not UNUSED.fullmatch(block, start, stop):
            raise ValueError(f"the header's {what} field {block[start:stop]!r} is no number")
    if block[257:265] == GNU and block[345:500].strip(b"\x00"):
        raise ValueError("the header has fields of an incremental or sparse GNU archive, which are not read")
    name, prefix = (field.split(b"\x00", 1)[0] for field in (block[:100], block[345:500]))
    return _Header(
        kind=block[156:157],
        name=prefix + b"/" + name if prefix else name,
        size=_number(block[124:136], "size"),
    )


def _number(field: bytes, what: str) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    match = OCTAL.fullmatch(field)
    if match is None:
        raise ValueError(f"the header's {what} field {field!r} is no number")
    return int(match[1], 8)


def _member(header: _Header, extended: _Extended, offset: int, length: int, total: int) -> TarMember | None:
    """The member that a header announces; None for a directory."""
    if header.kind not in (b"0", b"\x00", b"5"):
        kind = REFUSED_KINDS.get(header.kind, f"of the unknown kind {header.kind!r}")
        raise ValueError(f"a member is {kind}; only regular files are read")
    name = _text(header.name if extended.name is None else extended.name)
    directory = header.kind == b"5"
    inner = name.removesuffix("/") if directory else name
    if not directory or inner != ".":
        _require_safe(inner)
    if directory and length:
        raise ValueError(f"the directory {name[:200]!r} has {length} bytes of data")
    if length > total - offset:
        raise ValueError(f"{name[:200]!r} claims {length:,} bytes, {total - offset:,} are left: cut or damaged")
    return None if directory else TarMember(name=name, offset=offset, size=length)


def _text(name: bytes) -> str:
    if len(name) > MAX_NAME:
        raise ValueError(f"a member's name has {len(name):,} bytes; {MAX_NAME:,} are allowed")
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise ValueError(f"the member name {name[:200]!r} is not UTF-8") from None


def _require_safe(name: str) -> None:
    """Refuse what could leave a folder or confuse another reader; one leading './' is usual."""
    for pattern, what in BAD_NAMES:
        if pattern.search(name.removeprefix("./")):
            raise ValueError(f"the member name {name[:200]!r} {what}")


def _read_extended(file: BinaryIO, position: int, header: _Header, total: int) -> bytes:
    if header.size > MAX_EXTENDED:
        raise ValueError(f"an extended header claims {header.size:,} bytes; {MAX_EXTENDED:,} are allowed")
    if header.size > total - position - BLOCK:
        raise ValueError("an extended header leaves the file: cut or damaged")
    return _read(file, position + BLOCK, header.size)


def _extend(extended: _Extended, kind: bytes, data: bytes) -> _Extended:
    """Add what one extended header says; two that speak of the same thing are refused."""
    if kind == b"L" and not data.endswith(b"\x00"):
        raise ValueError("a long name does not end with a zero byte")
    records = {b"path": data.rstrip(b"\x00")} if kind == b"L" else _pax(data)
    path, size = records.get(b"path"), records.get(b"size")
    if kind == b"g":
        if path is not None or size is not None:
            raise ValueError("a global pax header gives one path or size to all members")
        return extended
    if extended.seen:
        raise ValueError("two extended headers for one member")
    if path is not None and (not path or b"\x00" in path):
        raise ValueError("an extended header gives an empty name, or one with a zero byte")
    if size is not None and not PAX_SIZE.fullmatch(size):
        raise ValueError(f"the pax size {size[:40]!r} is no number")
    return replace(extended, name=path, size=None if size is None else int(size), seen=True)


def _pax(data: bytes) -> dict[bytes, bytes]:
    """The records of a pax header: ``<length> <key>=<value>\\n``, where the length counts the whole record."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        match = PAX_LENGTH.match(data, position)
        stop = position + int(match[1]) if match else 0
        record = data[match.end() : stop] if match else b""
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not key or not equals or not record.endswith(b"\n") or stop > len(data):
            raise ValueError("a pax header is malformed")
        if key in records:
            raise ValueError(f"a pax header says {key[:40]!r} twice")
        if key.startswith(b"GNU.sparse") or (key == b"hdrcharset" and value != PAX_UTF8):
            raise ValueError(f"a pax header asks for {record[:60]!r}, which is not read")
        records[key] = value
        position = stop
    return records
