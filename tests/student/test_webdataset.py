"""The teacher as a stage of webdataset's own pipelines: the views of the store, whoever splits the shards."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset as wds

from pipeline.errors import MismatchError, ShardError, StudentError, ViewError
from student.dataset import StoredViews
from student.webdataset import TeacherStage, with_teacher
from tests.pictures import tiny_shards
from tests.small_students import CLASSES, make_store

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, SHARDS = 75, 5


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Shards of 15 rows: most mix windows (of 8) lie in two of them."""
    return tiny_shards(tmp_path_factory.mktemp("data"), ROWS, shards=SHARDS, classes=CLASSES)


@pytest.fixture(scope="module")
def store(urls: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("world"), views=2, shards=urls)


def pipeline(urls: Any, stage: TeacherStage, **more: Any) -> Any:
    options = {"shardshuffle": False, "nodesplitter": wds.split_by_node, "workersplitter": wds.split_by_worker}
    return wds.WebDataset(list(urls), empty_check=False, **{**options, **more}).compose(stage)


def prints(samples: Any) -> list[tuple[str, list[float], list[float]]]:
    """Samples in any order, in a form that can be compared."""
    hashed = [(hashlib.sha256(view.numpy().tobytes()).hexdigest(), label.tolist(), teacher.tolist())
              for view, label, teacher in samples]  # fmt: skip
    return sorted(hashed)


def wanted(store: Path, epoch: int) -> list[tuple[str, list[float], list[float]]]:
    """The same views through the other door."""
    with StoredViews(store, batch=ROWS, answer="soft", pixels="uint8", channels="last") as views:
        views.set_epoch(epoch)
        (batch,) = views
    assert batch.soft is not None
    return prints(zip(batch.pixels, batch.truth(CLASSES), batch.soft, strict=True))


def soft(store: Path, **more: Any) -> TeacherStage:
    return with_teacher(store, answer="soft", pixels="uint8", channels="last", **more)


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_workers_together_give_every_view_once(store: Path, urls: tuple[str, ...], workers: int) -> None:
    stage = soft(store)
    loader: Any = wds.WebLoader(
        pipeline(urls, stage), batch_size=None, num_workers=workers, persistent_workers=workers > 0
    )
    for epoch in (0, 1, 2):
        stage.set_epoch(epoch)
        assert prints(loader) == wanted(store, epoch)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_pass_gives_the_next_views_by_itself(store: Path, urls: tuple[str, ...], workers: int) -> None:
    loader: Any = wds.WebLoader(pipeline(urls, soft(store)), batch_size=None, num_workers=workers)
    for epoch in (0, 1, 2):
        assert prints(loader) == wanted(store, epoch)


def test_nodes_together_give_every_view_once(
    store: Path, urls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        part = list(pipeline(urls, soft(store)))
        assert 0 < len(part) < ROWS
        found += part
    monkeypatch.undo()
    assert prints(found) == wanted(store, 0)


def test_shards_in_any_order_and_samples_that_are_left_out(store: Path, urls: tuple[str, ...]) -> None:
    assert prints(pipeline(reversed(urls), soft(store))) == wanted(store, 0)
    twice = [url for url in urls for _ in range(2)]
    assert prints(pipeline(twice, soft(store))) == sorted(2 * wanted(store, 0))
    kept = wds.WebDataset(list(urls), shardshuffle=False).select(lambda sample: sample["__key__"][-1] in "0369")
    some = prints(kept.compose(soft(store)))
    assert 0 < len(some) < ROWS and set(map(repr, some)) < set(map(repr, wanted(store, 0)))


def test_shards_that_come_again_filtered_or_mixed_with_others(store: Path, urls: tuple[str, ...]) -> None:
    raw = [list(wds.WebDataset([url], shardshuffle=False)) for url in urls]
    known = set(map(repr, wanted(store, 0)))
    for kept in (slice(1, None), slice(9, None, 2), slice(0, 15, 4)):  # resampled to the same shard, after a filter
        assert {*map(repr, prints(soft(store)(raw[1][kept] * 3)))} < known
    some = [sample for start in (2, 0, 5) for sample in raw[0][start::3]]  # filtered by chance, another time
    assert len(prints(soft(store)(some))) == len(some)
    interleaved = [samples[at] for at in range(15) for samples in raw]
    assert prints(soft(store)(interleaved)) == wanted(store, 0)


def test_a_shard_of_one_window_that_comes_for_ever(store: Path, urls: tuple[str, ...]) -> None:
    few = list(wds.WebDataset([urls[0]], shardshuffle=False))[:5]
    source = iter(few * 4)
    first = [next(stage) for stage in [soft(store)(source)] for _ in range(5)]
    assert len(first) == 5 and len(list(source)) == 20 - 6, "nothing is gathered for ever"


def test_shards_that_a_command_reads(store: Path, urls: tuple[str, ...]) -> None:
    assert prints(pipeline([f"pipe:cat {url}" for url in urls], soft(store))) == wanted(store, 0)
    assert prints(pipeline([f"file:{url}" for url in urls], soft(store))) == wanted(store, 0)


def test_a_tail_in_components_comes_as_through_the_other_door(urls: tuple[str, ...], tmp_path: Path) -> None:
    store = make_store(tmp_path, views=2, shards=urls, keep="lowrank:2+3")
    assert prints(pipeline(urls, soft(store))) == wanted(store, 0)


def test_batches_behind_the_stage(store: Path, urls: tuple[str, ...]) -> None:
    batches = list(pipeline(urls, with_teacher(store)).shuffle(20).batched(16))
    view, label, teacher = batches[0]
    assert view.shape == (16, 3, 32, 32) and view.dtype == torch.float32
    assert label.shape == (16, CLASSES) and torch.allclose(label.sum(-1), torch.ones(16))
    assert teacher.shape == (16,) and teacher.dtype == torch.int64 and sum(len(b[0]) for b in batches) == ROWS


def test_an_order_without_partners_is_refused(store: Path, urls: tuple[str, ...], tmp_path: Path) -> None:
    shuffled = wds.WebDataset(list(urls), shardshuffle=False).shuffle(30, seed=1).compose(soft(store))
    assert prints(shuffled) == wanted(store, 0), "in shards of two windows a partner is never far"
    longer = make_store(tmp_path, rows=60, views=1)
    tars = sorted(str(path) for path in (tmp_path / "data").glob("*.tar"))
    with pytest.raises(StudentError, match=r"put shuffle behind with_teacher.$"):
        list(wds.WebDataset(tars, shardshuffle=False).shuffle(30, seed=1).compose(soft(longer)))
    decoded = wds.WebDataset(list(urls), shardshuffle=False).decode("rgb").compose(soft(store))
    with pytest.raises(StudentError, match=r"no picture in bytes \(jpg: ndarray\)"):
        list(decoded)
    unnamed = wds.WebDataset(list(urls), shardshuffle=False).to_tuple("jpg", "cls").compose(soft(store))
    with pytest.raises(StudentError, match=r"got a tuple: put with_teacher before to_tuple, map_tuple and batched.$"):
        list(unnamed)


def test_other_shards_are_refused(store: Path, urls: tuple[str, ...], tmp_path: Path) -> None:
    other = tiny_shards(tmp_path / "other", ROWS, shards=SHARDS, classes=CLASSES, seed=1)
    with pytest.raises(MismatchError, match=r"is not one of the shards .* with_teacher\(…, shards=…\)"):
        list(pipeline(other, soft(store)))
    moved = tiny_shards(tmp_path / "moved", ROWS, shards=SHARDS, classes=CLASSES)
    assert prints(pipeline(moved, soft(store, shards=moved))) == wanted(store, 0)
    assert soft(store, shards=f"{tmp_path}/moved/*.tar").index.urls == moved, "one pattern need not be a list"
    tar = Path(moved[0])
    data = bytearray(tar.read_bytes())
    stage = soft(store, shards=moved)
    data[int(stage.index.offsets[3]) + 200] ^= 1
    tar.write_bytes(bytes(data))
    with pytest.raises(ShardError, match="the shard was changed or damaged"):
        list(pipeline(moved, stage))
    relabelled = wds.WebDataset(list(urls), shardshuffle=False).map(lambda sample: {**sample, "cls": b"4"})
    with pytest.raises(ShardError, match=r"row 0 .* has class 4, and had 0 when it was indexed"):
        list(relabelled.compose(soft(store)))
    Path(moved[1]).write_bytes(Path(urls[2]).read_bytes())  # as large, with other samples
    with pytest.raises((MismatchError, ShardError)):
        list(pipeline(moved[1:2], stage))


def test_a_view_that_the_teacher_did_not_see_is_refused(urls: tuple[str, ...], tmp_path: Path) -> None:
    bright = make_store(tmp_path, shards=urls, brighten=1)
    with pytest.raises(ViewError, match="is not the one that was labelled"):
        list(pipeline(urls, soft(bright)))


def test_what_is_no_single_tensor_is_refused(store: Path, urls: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(StudentError, match=r"answer topk:2 is no single tensor. Ask for argmax, soft or dense."):
        with_teacher(store, answer="topk:2")
    components = make_store(tmp_path, shards=urls, keep="lowrank:2+3")
    with pytest.raises(StudentError, match=r"answer lowrank:2\+3 is no single tensor. Ask for argmax, soft or dense."):
        with_teacher(components, answer="lowrank:2+3")
