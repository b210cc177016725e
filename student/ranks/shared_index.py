"""What is in these shards, if one rank looks and the others are told?

Rank 0 finds the shards and scans them; then it publishes the index in pieces in the store that the process group met
at, and each other rank checks it and has its digest compared. A large index (`pipeline.shards.index_file`) is fetched
by the first rank of a node alone; the others map its file. No collective waits meanwhile: whoever waits asks every
tenth of a second, for as long as rank 0 beats, which it does however long a shard takes to come. Silent for the
time-out (`Ranks.timeout_s`), it is given up; an error of the scan ends all ranks with that error.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import first_line
from pipeline.processes.rendezvous import LINGER_S, POLL_S, LostError, Meeting, meet
from pipeline.processes.world import Place
from pipeline.shards.index import SampleIndex, from_blocks, scan
from pipeline.shards.index_checks import DTYPES, lengths_of
from pipeline.shards.patterns import expand
from pipeline.shards.truth import PLAIN, LabelRule
from student.ranks.ranks import Ranks

PIECE = 1 << 20
"""Bytes of an array that are published at once; a value in torch's store may not be much larger"""


def indexed(patterns: Sequence[str], ranks: Ranks, *, workers: int, rule: LabelRule = PLAIN) -> SampleIndex:
    """The index of the shards that the patterns mean, the same one on every rank; scanned once."""
    if ranks.world == 1:
        return scan(expand(patterns), workers=workers, rule=rule)
    place = dataclasses.replace(Place.among_ranks(), hosted=True)  # rank 0, or torchrun, keeps it open
    with meet(place, ranks.timeout_s) as meeting:
        if not ranks.main:
            return _received(meeting)
        try:
            everyone = workers * Place.among_ranks().local_world  # those of this node's others are idle
            index = scan(expand(patterns), workers=everyone, rule=rule)
        except Exception as error:
            _tell(meeting, error)
            raise
        _hand_round(meeting, index)
        return index


def _hand_round(meeting: Meeting, index: SampleIndex) -> None:
    """Publish, the head last, until the others have it; then let go of the bytes."""
    names = []
    for name, array in index.arrays().items():
        for number, piece in enumerate(_pieces(array)):
            names.append(f"{name}/{number}")
            meeting.put(names[-1], base64.b64encode(zlib.compress(piece.tobytes(), 1)).decode())
    head: dict[str, Any] = {"urls": index.urls, "class_names": index.class_names, "label_key": index.label_key}
    head["digest"] = index.digest()
    meeting.put("index", json.dumps({**head, "lengths": lengths_of(index.arrays())}))
    lost = meeting.wait_for_others()  # one that is lost is missed in the first collective
    for name in () if lost else names:
        meeting.put(name, "")


def _received(meeting: Meeting) -> SampleIndex:
    head: dict[str, Any] = json.loads(meeting.wait_for("index"))
    lengths = head["lengths"]

    def blocks(name: str) -> Iterator[NDArray[Any]]:
        dtype = DTYPES[name]
        for number in range(len(range(0, lengths[name], PIECE // dtype.itemsize))):
            piece = zlib.decompress(base64.b64decode(meeting.wait_for(f"{name}/{number}")))
            yield np.frombuffer(piece, dtype)

    return from_blocks(head["urls"], head["class_names"], head["digest"], lengths, blocks, label_key=head["label_key"])


def _pieces(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    rows = PIECE // array.itemsize
    return (array[at : at + rows] for at in range(0, len(array), rows))


def _tell(meeting: Meeting, error: Exception) -> None:
    """Say why there is no index, and stay until the others have heard: the store may end with this process."""
    said = first_line(error, None)
    deadline = time.monotonic() + min(LINGER_S, meeting.timeout_s)
    others = range(1, meeting.place.world)
    with contextlib.suppress(LostError):
        meeting.put("failed/0", said)
        while time.monotonic() < deadline and any(meeting.get(f"left/{rank}") is None for rank in others):
            time.sleep(POLL_S)
