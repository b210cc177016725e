"""Which row is which: its shard, its key, its class, where its payload lies, and how to know that it is still the same?

One scan reads every shard from end to end (`pipeline.shards.samples`, in as many processes as asked for; the result
does not depend on them) and joins what it finds, in the order of the shards, into a few flat arrays: 14 million rows
are 14 million entries in each, and no objects. Row r is entry r; the rows of shard s are ``shard_starts[s]`` up to
``shard_starts[s + 1]``; the key of row r is ``key_bytes[key_starts[r]:key_starts[r + 1]]``.

An index may also come out of a store that somebody else wrote, so every index is checked when it is made
(`pipeline.shards.index_checks`). `digest` names the content without the places of shards. A large index lies in a file
that all processes of a node map (`pipeline.shards.index_file`): it was checked once, and its arrays are no process's
own.

Shapes: S shards, R rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import MismatchError, ShardError
from pipeline.processes.ordered_map import ordered_map
from pipeline.progress import Progress
from pipeline.shards.files import ShardFiles
from pipeline.shards.index_checks import DTYPES, PER_ROW, Lengths, Proof, lengths_of, oddities, prove, require, size_of
from pipeline.shards.index_file import LARGE, Blocks, Mapped, OtherContentError, Prove, mapped
from pipeline.shards.samples import ShardRows, read_shard
from pipeline.shards.sidecars import class_names_beside, digests_beside, require_class_names
from pipeline.shards.truth import PLAIN, LabelRule, brief

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleIndex:
    """The table of all rows in some shards, in flat arrays; see the head of this file."""

    ARRAYS: ClassVar[tuple[str, ...]] = tuple(DTYPES)

    urls: tuple[str, ...]
    """Where the shards lie, in order."""
    class_names: tuple[str, ...] | None
    """The name of each class, where they are known."""
    shard_sizes: NDArray[np.int64]
    """[S] bytes of each shard."""
    shard_starts: NDArray[np.int64]
    """[S+1] first row of each shard."""
    key_bytes: NDArray[np.uint8]
    """All keys, UTF-8, one after another."""
    key_starts: NDArray[np.int64]
    """[R+1] where each key begins."""
    key_hash: NDArray[np.uint64]
    """[R] what a row's draws are keyed by."""
    classes: NDArray[np.int32]
    """[R] class number; -1 is unlabelled."""
    offsets: NDArray[np.int64]
    """[R] first byte of the payload in its shard."""
    lengths: NDArray[np.int64]
    """[R] bytes of the payload."""
    payload_crc: NDArray[np.uint32]
    """[R] crc32c of the payload."""
    widths: NDArray[np.int32]
    """[R] pixels; 0 where the header cannot be read."""
    heights: NDArray[np.int32]
    """[R] pixels; 0 where the header cannot be read."""
    label_key: str | None = None
    """Where the classes stand in the samples (`pipeline.shards.truth`), if not where they usually do."""
    stands_for: str | None = None
    """The `digest` of the index in whose place this one stands: of the same pictures, in other bytes."""
    proof: Proof | None = field(default=None, repr=False)
    """That these arrays fit together; made here, unless it is given and of these very arrays."""

    def __post_init__(self) -> None:
        _check_urls(self.urls, np.size(self.shard_sizes))
        if self.proof is None or not self.proof.is_of(self.arrays()):
            proof = Proof.of(self.arrays())
            for name, value in (*proof.arrays.items(), ("proof", proof)):
                object.__setattr__(self, name, value)
        _check_names(self.class_names, self._proof.facts.highest_class)

    def __reduce__(self) -> tuple[Callable[..., SampleIndex], tuple[Any, ...]]:
        return _proven, (self.urls, self.class_names, self._proof, self.label_key, self.stands_for)

    def __len__(self) -> int:
        return len(self.classes)

    def key(self, row: int) -> str:
        """The key of a row."""
        return self.key_bytes[self.key_starts[row] : self.key_starts[row + 1]].tobytes().decode()

    def shard_of(self, rows: ArrayLike) -> NDArray[np.int64]:
        """The number of the shard that each of these rows lies in."""
        return np.asarray(np.searchsorted(self.shard_starts, rows, side="right") - 1, np.int64)

    @property
    def num_classes(self) -> int:
        """How many classes there are: as many as have names, or else up to the highest number."""
        return len(self.class_names) if self.class_names else self._proof.facts.highest_class + 1

    @property
    def unlabelled(self) -> int:
        """How many rows have no class."""
        return self._proof.facts.unlabelled

    @property
    def mapped(self) -> bool:
        """Whether the arrays lie in a file that other processes map as well."""
        return isinstance(self.proof, Mapped)

    @property
    def _proof(self) -> Proof:
        assert self.proof is not None
        return self.proof

    def files(self) -> ShardFiles:
        """The shards, held to the sizes that they had when they were indexed."""
        return ShardFiles(self.urls, self.shard_sizes.tolist())

    @property
    def label_rule(self) -> LabelRule:
        """How the classes were found in the samples, to find that of one row again."""
        return LabelRule(key=self.label_key, names=self.class_names)

    def digest(self) -> str:
        """The sha256 of everything but where the shards lie and what the classes are called."""
        return self.stands_for or self._proof.digest

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name, in the fixed order of `DTYPES`."""
        return {name: getattr(self, name) for name in DTYPES}

    @classmethod
    def from_arrays(
        cls,
        urls: Sequence[str],
        class_names: Sequence[str] | None,
        arrays: Mapping[str, NDArray[Any]],
        label_key: str | None = None,
    ) -> SampleIndex:
        """The index that has these arrays, once they fit together."""
        require(set(arrays) == set(DTYPES), f"it has {', '.join(sorted(arrays))}; needed are {', '.join(DTYPES)}")
        names, columns = None if class_names is None else tuple(class_names), dict[str, Any](arrays)
        return cls(urls=tuple(urls), class_names=names, label_key=label_key, **columns)


def _proven(
    urls: tuple[str, ...],
    class_names: tuple[str, ...] | None,
    proof: Proof,
    label_key: str | None = None,
    stands_for: str | None = None,
) -> SampleIndex:
    columns = dict[str, Any](proof.arrays)
    return SampleIndex(
        urls=urls, class_names=class_names, label_key=label_key, proof=proof, stands_for=stands_for, **columns
    )


def from_blocks(
    urls: Sequence[str],
    class_names: Sequence[str] | None,
    digest: str,
    lengths: Lengths,
    blocks: Blocks,
    *,
    label_key: str | None = None,
    anew: bool = False,
) -> SampleIndex:
    """The index of this digest whose arrays come in blocks; OtherContentError where they are of another.

    Those of a large one are asked for only if this node does not have them, or `anew`.
    """
    names = None if class_names is None else tuple(class_names)
    proof = None if anew else _mapped(digest, lengths, blocks, prove)
    if proof is not None:
        return _proven(tuple(urls), names, proof, label_key)
    arrays = {name: np.concatenate([np.empty(0, dtype), *blocks(name)]) for name, dtype in DTYPES.items()}
    index = SampleIndex.from_arrays(urls, names, arrays, label_key)
    if index.digest() != digest:
        raise OtherContentError(index.digest())
    return index


def share(index: SampleIndex) -> SampleIndex:
    """The same index; if it is large, in a file that other processes map as well."""
    proof = index._proof
    if index.mapped or proof.nbytes < LARGE:
        return index
    found = _mapped(proof.digest, lengths_of(proof.arrays), lambda name: (proof.arrays[name],), lambda *_: proof.facts)
    return index if found is None else _proven(index.urls, index.class_names, found, index.label_key)


def _mapped(digest: str, lengths: Lengths, blocks: Blocks, prove: Prove) -> Mapped | None:
    """Small ones are not worth a file."""
    if size_of(lengths) < LARGE or not all(lengths.values()):
        return None
    return mapped(digest, lengths, blocks, prove)


def _check_urls(urls: tuple[str, ...], sizes: int) -> None:
    require(len(urls) > 0 and all(isinstance(url, str) and url for url in urls), "it names no shards")
    require(len(set(urls)) == len(urls), "it names a shard twice")
    require(sizes == len(urls), f"it has {len(urls)} shards and {sizes} sizes")


def _check_names(names: tuple[str, ...] | None, highest: int) -> None:
    if names is not None:
        require(len(names) > 0 and all(isinstance(name, str) for name in names), "its class names are no names")
        require_class_names(names, "the index")
        require(highest < len(names), f"it has class {highest} and names for {len(names)} classes")


def scan(urls: Sequence[str], *, workers: int = 0, progress: bool = False, rule: LabelRule = PLAIN) -> SampleIndex:
    """Read all shards once, from end to end; `workers` processes (0: this one) change the speed only.

    `rule` says where the classes stand, and what they are called where no classes.json beside the shards does.
    """
    names, digests = _names_of(urls, rule), digests_beside(urls)
    given = rule.names is not None and not rule.assumed
    rule = replace(rule, names=names)
    jobs = [(url, digests.get(url), rule) for url in urls]
    parts: list[ShardRows] = []
    rows = 0
    with Progress("scan", len(urls), "shards", shown=progress) as scanned:
        for part in ordered_map(_read_job, jobs, workers=min(workers, len(jobs)) if len(jobs) > 1 else 0):
            parts.append(part)
            rows += len(part.classes)
            scanned.advance(note=f"{rows:,} rows")
    index = _joined(urls, rule, parts, given)
    for warning in oddities(index, names, parts):
        log.warning("%s", warning)
    log.info(
        "%d rows in %d shards, %d classes, %d unlabelled", len(index), len(urls), index.num_classes, index.unlabelled
    )
    return share(index)


def _names_of(urls: Sequence[str], rule: LabelRule) -> tuple[str, ...] | None:
    """What the classes are called; refused where the user and a classes.json beside the shards disagree."""
    beside = class_names_beside(urls)
    if rule.assumed:
        return beside or rule.names
    if rule.names is not None and beside is not None and rule.names != beside:
        raise MismatchError(
            f"--classes names {brief(rule.names)}, classes.json beside {urls[0]} names {brief(beside)}: class numbers "
            "would mean two things. Leave --classes out, or correct classes.json if that is the wrong one."
        )
    if rule.names is not None and _are_other_numbers(rule.names):
        log.warning(
            "--classes calls the classes by numbers that are not theirs (class 0 is %s, …): a number in .cls or json "
            "is that of a class, and never its name", rule.names[0],
        )  # fmt: skip
    return rule.names or beside


def _are_other_numbers(names: tuple[str, ...]) -> bool:
    return all(map(str.isdecimal, names)) and names != tuple(map(str, range(len(names))))


def _read_job(job: tuple[str, str | None, LabelRule]) -> ShardRows:
    return read_shard(*job)


def _joined(urls: Sequence[str], rule: LabelRule, parts: Sequence[ShardRows], given: bool) -> SampleIndex:
    """One index from the rows of each shard; names beside them that are too few are left out, unless they were used."""
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ("key_bytes", *PER_ROW)
    }
    names, highest = rule.names, int(columns["classes"].max())
    enough = names is not None and highest < len(names)
    if names is not None and not enough and (given or any(part.named for part in parts)):
        raise ShardError(
            f"class {highest} occurs in the shards, and only {brief(names)} have names. Name all classes, by --classes "
            "or in classes.json."
        )
    return SampleIndex(
        urls=tuple(urls),
        class_names=names if enough else None,
        label_key=rule.key,
        shard_sizes=np.array([part.size for part in parts], np.int64),
        shard_starts=_starts(np.array([len(part.classes) for part in parts], np.int64)),
        key_starts=_starts(np.concatenate([part.key_lengths for part in parts])),
        **columns,
    )


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
