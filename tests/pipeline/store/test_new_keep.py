"""A keep that nobody knows but `keeps.KEEPS` is written, mended, read and audited: the store asks it for everything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from pipeline.errors import MismatchError
from pipeline.inspection.audit import audit
from pipeline.labels.codes import softmax_of
from pipeline.labels.dense import Dense
from pipeline.labels.keep import Events, FittedForm, Fitting, Form, Keep, Parts, Ranked
from pipeline.labels.keeps import KEEPS, parse_keep
from pipeline.store.reader import StoreReader
from tests.faults import memory_disk
from tests.stores import codes_of, fill, finished, index_of, manifest_of, open_writing, tree

INDEX = index_of(100)


@dataclass(frozen=True, slots=True)
class Above(Keep):
    """Codes above those that are usual for their class."""

    usual: tuple[int, ...] | None = None

    kind: ClassVar[str] = "above"

    def __str__(self) -> str:
        return "above"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Above)

    def __hash__(self) -> int:
        return 0

    @property
    def fitting(self) -> UsualCodes:
        return UsualCodes(self)

    def forms(self, num_classes: int, temperatures: Sequence[float]) -> dict[str, Form]:
        return {"logits": Form(dtype=np.dtype(np.int32), fill=0, width=num_classes, axis="class", meaning="above")}

    def encode(
        self, codes_BC: np.ndarray, argmax_B: np.ndarray, temperatures: Sequence[float], ranked: Ranked | None = None
    ) -> dict[str, np.ndarray]:
        return {"logits": codes_BC.astype(np.int32) - np.array(self.usual, np.int32)}

    def lacks(self, temperature: float, temperatures: Sequence[float]) -> str | None:
        return None

    def events(self, parts: Parts, temperature: float, temperatures: Sequence[float]) -> Events:
        codes_BC = (parts["logits"] + np.array(self.usual, np.int32)).astype(np.uint16)
        prob_BC = softmax_of(codes_BC, temperature)
        index_BC = np.broadcast_to(np.arange(prob_BC.shape[1]), prob_BC.shape)
        return Events(index_BK=index_BC, prob_BK=prob_BC, rest_B=np.zeros(len(prob_BC)))


@dataclass(frozen=True, slots=True)
class UsualCodes(Fitting):
    keep: Above

    @property
    def least(self) -> int:
        return 1

    def rows(self, rows: int, window: int) -> np.ndarray:
        return np.arange(rows)[::3]

    def fit(self, codes_NC: np.ndarray) -> Above:
        return Above(tuple(np.median(codes_NC, axis=0).astype(int).tolist()))

    def forms(self, num_classes: int) -> dict[str, FittedForm]:
        form = FittedForm(dtype=np.dtype(np.int32), shape=(num_classes,), axes=("class",), fill=0, meaning="usual")
        return {"mean": form}

    def attributes(self) -> dict[str, object]:
        return {"meaning": "the usual codes"}

    def sized(self, attributes: Mapping[str, Any]) -> Above:
        return self.keep

    def arrays(self) -> dict[str, np.ndarray]:
        return {"mean": np.array(self.keep.usual, np.int32)}

    def having(self, arrays: Mapping[str, np.ndarray]) -> Above:
        return replace(self.keep, usual=tuple(arrays["mean"].tolist()))


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.labels.keeps.KEEPS", {**KEEPS, "above": lambda text: Above() if not text else None})


@pytest.fixture
def place() -> Iterator[Path]:
    with memory_disk() as path:
        yield path / "store.zarr"


def test_it_is_fitted_stored_and_read_without_a_word_of_it_elsewhere(place: Path) -> None:
    manifest = manifest_of(INDEX, "above")
    finished(place, manifest, INDEX)
    store = StoreReader.open(place)
    assert str(store.manifest.keep) == "above" and store.manifest == manifest
    rows_N = np.arange(32)
    dense = softmax_of(codes_of(manifest, rows_N), 3.0)
    told = store.manifest.keep.events(store.read(0, 0).labels.arrays(), 3.0, ()).prob_BK
    assert np.array_equal(told, dense)
    assert audit(store.name) == []


def test_what_it_was_fitted_to_is_mended_to_the_same_bytes(place: Path) -> None:
    manifest = manifest_of(INDEX, "above")
    finished(place, manifest, INDEX)
    whole = tree(place)
    (place / "components/mean/c.0").unlink()
    with open_writing(place, manifest, INDEX, 2) as store:
        fill(store)
        store.finish()
    assert tree(place) == whole


def test_dense_labels_become_it_and_its_own_only_an_argmax() -> None:
    manifest = manifest_of(INDEX, "above")
    codes_NC = codes_of(manifest, np.arange(9))
    parts = {"argmax": codes_NC.argmax(axis=1), "logits": codes_NC}
    narrowed = Dense().narrowing(manifest.keep, (), ())(parts)
    assert np.array_equal(narrowed["logits"] + np.array(manifest.keep.usual), codes_NC)  # type: ignore[attr-defined]
    assert manifest.keep.narrowing(parse_keep("argmax"), (), ())(narrowed) == {}
    with pytest.raises(MismatchError, match="labels kept as above cannot become dense"):
        manifest.keep.narrowing(Dense(), (), ())
