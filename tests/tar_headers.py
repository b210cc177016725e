"""Tar headers made by hand, for tests that need odd ones."""

from __future__ import annotations

from pipeline.shards.tar import BLOCK

END = bytes(2 * BLOCK)


def header(name: bytes = b"a.jpg", size: int | bytes = 0, kind: bytes = b"0") -> bytes:
    """One ustar header with a right checksum; a size in bytes is the field itself."""
    field = b"%011o\0" % size if isinstance(size, int) else size
    numbers = b"0000644\0" + b"0000000\0" * 2 + field + b"00000000000\0"
    block = name.ljust(100, b"\0") + numbers + b" " * 8 + kind + bytes(100) + b"ustar\x0000" + bytes(247)
    assert len(block) == BLOCK
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    data = b"".join(records)
    return header(b"PaxHeader", len(data), kind) + padded(data)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)
