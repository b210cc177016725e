"""Is a sample of a damaged shard ever lost, or read as another, without a word?

A shard is cut at every block; and it is mutated: bytes, bits, fields with a right checksum again, blocks removed,
doubled, moved, zeroed, inserted, archives joined, members exchanged. What a scan then accepts is held to three oracles:

    what Python's own tarfile finds in the same bytes (the same samples, none less)
    the index that was made before: each row is the image that it was, or a `ShardError`
    the digest in pack.json, where there is one: nothing passes
"""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.durable.canonical import sha256
from pipeline.errors import ShardError, UserError
from pipeline.shards import samples
from pipeline.shards.files import ShardFiles
from pipeline.shards.index import SampleIndex, scan
from pipeline.shards.rows import payload_of
from pipeline.shards.tar import BLOCK, TarMember, members
from tests.campaign.tally import Scale, Tally
from tests.pictures import jpeg, sample, write_tar

TITLE = "mutated tars, and truncation at each 512-byte block"
SHOWS = "0 silent"
FULL, REDUCED = 1000, 120
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)

Mutation = Callable[[bytearray, np.random.Generator], bytearray]


def run(scale: Scale, place: Path) -> Tally:
    """Mutations of three formats; then every truncation."""
    tally, generator = Tally(), np.random.default_rng(scale.seed)
    shards = [_shard(place / str(number), tar_format) for number, tar_format in enumerate(FORMATS)]
    known = [(path, path.read_bytes(), scan([str(path)])) for path in shards]
    accepted = 0
    numbers = itertools.count()
    while tally.count < scale.count(FULL, REDUCED):
        number = next(numbers)
        path, data, index = known[number % len(known)]
        mutation = MUTATIONS[number // len(known) % len(MUTATIONS)]
        changed = bytes(mutation(bytearray(data), generator))
        if changed != data:
            accepted += _judge(tally, path, changed, index, f"{mutation.__name__} {number}", digest=sha256(data))
            path.write_bytes(data)
    mutated = tally.count
    for path, data, index in known:
        for cut in range(0, len(data), BLOCK):
            _judge(tally, path, data[:cut], index, f"cut at {cut}", whole=data)
        path.write_bytes(data)
    tally.note(f"{mutated} mutations, {accepted} of which are archives that a scan accepts and tarfile reads alike;")
    tally.note(f"{tally.count - mutated} truncations of {len(known)} shards (ustar, GNU, pax).")
    return tally


def _shard(folder: Path, tar_format: int) -> Path:
    """Six samples, one of them with a long name."""
    content = []
    for row in range(6):
        key = f"s/{row:03d}" if row != 4 else f"long/{'d' * 60}/{'n' * 50}"
        content += sample(key, jpeg(row, 24, 18), row % 3)
    return write_tar(folder / "000000.tar", content, tar_format)


def _judge(
    tally: Tally, path: Path, data: bytes, index: SampleIndex, what: str, whole: bytes | None = None,
    digest: str | None = None,
) -> bool:  # fmt: skip
    """Whether a scan accepts these bytes; what it finds must be right."""
    path.write_bytes(data)
    tally.case(silent=_other_payload(index, data, what))
    if digest is not None:
        try:
            samples.read_shard(str(path), digest)
            tally.silent.append(f"{what}: passes the digest in pack.json")
        except ShardError:
            pass
    try:
        found = scan([str(path)])
    except UserError as error:
        if not str(error).startswith((str(path), "no shards", f"the image of {path}")):
            tally.failures.append(f"{what}: the error does not name the shard: {error}")
        return False
    if whole is not None and found.arrays()["key_bytes"].tobytes() != index.key_bytes.tobytes():
        tally.silent.append(f"{what}: samples are lost")
    if _content(found) != _by_tarfile(data):
        tally.silent.append(f"{what}: tarfile finds other samples")
    return True


def _other_payload(index: SampleIndex, data: bytes, what: str) -> str | None:
    """Is any row of the index that was made before another image now?"""
    with ShardFiles(index.urls) as files:
        for row in range(len(index)):
            try:
                payload = payload_of(index, files, row)
            except ShardError:
                continue
            if payload != jpeg(row, 24, 18):
                return f"{what}: row {row} is another image"
    return None


def _content(index: SampleIndex) -> list[tuple[str, bytes]]:
    with index.files() as files:
        return [(index.key(row), payload_of(index, files, row)) for row in range(len(index))]


def _by_tarfile(data: bytes) -> list[tuple[str, bytes]]:
    """Key and image of every sample, in order, by a reader that is not ours."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            folder, slash, name = info.name.rpartition("/")
            base, dot, field = name.partition(".")
            if info.isreg() and base and dot and field.lower().rpartition(".")[2] in samples.IMAGE_FIELDS:
                file = tar.extractfile(info)
                assert file is not None
                found.append((folder + slash + base, file.read()))
    return found


# ---- mutations


def _block(data: bytearray, generator: np.random.Generator) -> int:
    return int(generator.integers(len(data) // BLOCK)) * BLOCK


def _headers(data: bytearray) -> list[int]:
    return [at for at in range(0, len(data), BLOCK) if data[at + 257 : at + 262] == b"ustar"]


def _reseal(data: bytearray) -> bytearray:
    """Make the checksums of all headers right again."""
    for at in _headers(data):
        block = data[at : at + BLOCK]
        data[at + 148 : at + 156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    return data


def bit(data: bytearray, generator: np.random.Generator) -> bytearray:
    """One bit anywhere."""
    data[int(generator.integers(len(data)))] ^= 1 << int(generator.integers(8))
    return data


def header_bit(data: bytearray, generator: np.random.Generator) -> bytearray:
    """One bit of a header."""
    at = int(generator.choice(_headers(data)))
    data[at + int(generator.integers(BLOCK))] ^= 1 << int(generator.integers(8))
    return data


def sealed_byte(data: bytearray, generator: np.random.Generator) -> bytearray:
    """A byte of a header, with a right checksum."""
    at = int(generator.choice(_headers(data)))
    data[at + int(generator.integers(345))] = int(generator.integers(256))
    return _reseal(data)


def sealed_size(data: bytearray, generator: np.random.Generator) -> bytearray:
    """Another size, with a right checksum."""
    at = int(generator.choice(_headers(data)))
    data[at + 124 : at + 136] = b"%011o\0" % int(generator.integers(3000))
    return _reseal(data)


def sealed_kind(data: bytearray, generator: np.random.Generator) -> bytearray:
    """Another kind of member."""
    at = int(generator.choice(_headers(data)))
    data[at + 156] = int(generator.choice(list(b"0123456789xgLKSDVMN\0")))
    return _reseal(data)


def sealed_name(data: bytearray, generator: np.random.Generator) -> bytearray:
    """The name of another member, or one that leaves the folder."""
    one, other = generator.choice(_headers(data), 2)
    names = (bytes(data[other : other + 100]), b"../x.jpg", b"/x.jpg", b"s/000.png", b"a.jpg/", b".jpg", b"x")
    data[one : one + 100] = names[int(generator.integers(len(names)))].ljust(100, b"\0")
    return _reseal(data)


def block_gone(data: bytearray, generator: np.random.Generator) -> bytearray:
    """A block is missing."""
    at = _block(data, generator)
    del data[at : at + BLOCK]
    return data


def block_twice(data: bytearray, generator: np.random.Generator) -> bytearray:
    """A block comes twice."""
    at = _block(data, generator)
    return data[:at] + data[at : at + BLOCK] + data[at:]


def block_zeroed(data: bytearray, generator: np.random.Generator) -> bytearray:
    """A block was never written."""
    at = _block(data, generator)
    data[at : at + BLOCK] = bytes(BLOCK)
    return data


def blocks_moved(data: bytearray, generator: np.random.Generator) -> bytearray:
    """Two blocks are exchanged."""
    one, other = _block(data, generator), _block(data, generator)
    data[one : one + BLOCK], data[other : other + BLOCK] = data[other : other + BLOCK], data[one : one + BLOCK]
    return data


def end_inside(data: bytearray, generator: np.random.Generator) -> bytearray:
    """An end of archive where a header was: what follows must not be lost."""
    at = int(generator.choice(_headers(data)))
    return data[:at] + bytes(2 * BLOCK) + data[at:]


def joined(data: bytearray, generator: np.random.Generator) -> bytearray:
    """Two archives, one after the other."""
    return data + data[: _block(data, generator)]


def member_gone(data: bytearray, generator: np.random.Generator) -> bytearray:
    """A whole member is missing: of a sample, its class or its image."""
    headers = [*_headers(data), len(data)]
    at = int(generator.integers(len(headers) - 1))
    del data[headers[at] : headers[at + 1]]
    return data


def members_moved(data: bytearray, generator: np.random.Generator) -> bytearray:
    """Two neighbours change places."""
    headers = [*_headers(data), len(data)]
    at = int(generator.integers(len(headers) - 2))
    a, b, c = headers[at : at + 3]
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def cut_anywhere(data: bytearray, generator: np.random.Generator) -> bytearray:
    """Cut, and not at a block."""
    return data[: int(generator.integers(len(data)))]


def noise(data: bytearray, generator: np.random.Generator) -> bytearray:
    """A stretch of other bytes."""
    at, length = int(generator.integers(len(data))), int(generator.integers(1, 2000))
    part = data[at : at + length]
    data[at : at + length] = generator.bytes(len(part))
    return data


MUTATIONS: tuple[Mutation, ...] = (
    *(bit, header_bit, sealed_byte, sealed_size, sealed_kind, sealed_name, block_gone, block_twice, block_zeroed),
    *(blocks_moved, end_inside, joined, member_gone, members_moved, cut_anywhere, noise),
)


def sabotage(place: Path) -> Tally:
    """A reader that takes the first thing that it does not understand for the end: samples are lost silently."""
    tally = Tally()

    def lenient(file: object, name: str, size: int) -> object:
        found: list[TarMember] = []
        try:
            for member in members(file, name, size):  # type: ignore[arg-type]
                found.append(member)  # noqa: PERF402 - what came before the error counts
        except ShardError:
            pass
        return iter(found)

    path = _shard(place, tarfile.GNU_FORMAT)
    data, index = path.read_bytes(), scan([str(path)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "members", lenient)
        _judge(tally, path, data[: 8 * BLOCK], index, "cut", whole=data)
    return tally
