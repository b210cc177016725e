"""Which row of a store is a sample of somebody else's pipeline, and may it come now?

A sample is known by its shard (``__url__``) and its key. The mix windows of a shard must come in their order, since
views are mixed with their neighbours; within one, and among shards, any order will do. A shard may come more than once,
whole or filtered: then it begins anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import MismatchError, StudentError
from pipeline.shards.index import SampleIndex

KEEP_SHARDS = 16
"""Of so many shards the keys are at hand, for pipelines that mix several"""

Raw = Mapping[str, Any]


@dataclass(slots=True)
class SampleRows:
    """Finds the row in the index of each sample that a pipeline of shards gives, one after another."""

    index: SampleIndex
    shards: Mapping[str, int]
    name: str
    mix_window: int
    url: str = ""
    shard: int = -1
    first: int = 0
    """The window in which the shard began, this time"""
    last: int = -1
    """The row that came last"""
    keys: dict[int, dict[str, int]] = field(default_factory=dict)
    """The rows of some shards by their keys"""

    def of(self, sample: Raw) -> int:
        """The row of a sample; refused where the store knows no such sample, or where samples come in a wrong order."""
        if not isinstance(sample, Mapping):
            raise StudentError(
                f"The stage takes samples as they are in the shards, and got a {type(sample).__name__}: put "
                "with_teacher before to_tuple, map_tuple and batched."
            )
        url, key = str(sample.get("__url__")), str(sample.get("__key__"))
        again = url != self.url
        if again:
            self.url, self.shard = url, self._shard_of(url)
        row = self._rows_of(self.shard).get(key)
        if row is None:
            raise MismatchError(f"{url} has a sample '{key}', and had none when {self.name} was labelled. Restore it.")
        self._in_order(row, key, begins=again)
        return row

    def _in_order(self, row: int, key: str, *, begins: bool) -> None:
        """A shard may come again from where it began, or from anywhere in its first window; else windows ascend."""
        window, start = row // self.mix_window, int(self.index.shard_starts[self.shard])
        if begins:
            self.first = window
        elif window < self.last // self.mix_window:
            if window > max(self.first, start // self.mix_window):
                raise StudentError(
                    f"{self.url}: sample '{key}' (row {row}) comes after row {self.last}. Views are mixed with their "
                    "neighbours, so the stage needs a shard's samples in their order: put shuffle behind with_teacher."
                )
            self.first = window
        self.last = row

    def _shard_of(self, url: str) -> int:
        """The shard of this name, also where it is read by a command (``pipe:aws s3 cp s3://bucket/a.tar -``)."""
        command = url.removeprefix("pipe:").split() if url.startswith("pipe:") else []
        for name in (url, re.sub("^file:(//)?", "", url), *command):
            if name in self.shards:
                return self.shards[name]
        raise MismatchError(
            f"{url} is not one of the shards that {self.name} labels ({self.index.urls[0]} …). Where they have "
            "other names now, name them all: with_teacher(…, shards=…)."
        )

    def _rows_of(self, shard: int) -> dict[str, int]:
        if shard not in self.keys:
            start, stop = (int(self.index.shard_starts[shard + more]) for more in (0, 1))
            self.keys[shard] = {self.index.key(row): row for row in range(start, stop)}
            if len(self.keys) > KEEP_SHARDS:
                del self.keys[next(iter(self.keys))]
        return self.keys[shard]
