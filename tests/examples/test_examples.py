"""The examples do what they say, on a small store."""

from __future__ import annotations

import importlib.util
import math
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from timm.task import TokenDistillationTask

from pipeline.labels.codes import logits_of, quantise
from pipeline.labels.dense import Dense
from pipeline.shards.index import scan
from pipeline.views.imagenet import MEAN, STD
from student.dataset import StoredViews
from student.feed.tensors import normalise
from tests.pictures import tiny_shards
from tests.small_students import CLASSES, make_store

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("world"), views=2)


def main_of(name: str) -> Callable[..., Any]:
    return runpy.run_path(str(FOLDER / f"{name}.py"))["main"]  # type: ignore[no-any-return]


def needs(*packages: str) -> None:
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        pytest.skip(f"needs {', '.join(absent)}, which the run-time does not: pip install '.[examples]'")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 55
    assert f"examples/{path.name}" in path.read_text(encoding="utf-8"), "it says how it is run"


def test_the_plain_loop_learns(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, *_, last = main_of("plain_torch")(str(store), model="test_vit", epochs=3, batch=20, workers=0)
    assert last < first and "epoch 2 | loss " in capsys.readouterr().out


class Live(torch.nn.Module):
    """A teacher in double precision, so that its bits do not hang on the batch, whose answer goes through the codes."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"mean": MEAN, "std": STD}
        weight = np.random.default_rng(1).normal(0, 1, (3 * 16, CLASSES))
        self.register_buffer("weight", torch.from_numpy(weight))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.adaptive_avg_pool2d(x_BCHW.double(), 4).flatten(1)
        raw = (small @ self.weight).float().numpy()
        return torch.from_numpy(logits_of(quantise(raw, lambda at: f"row {at}")))


def normalised(pixels_BHWC: NDArray[np.uint8]) -> torch.Tensor:
    return normalise(torch.from_numpy(pixels_BHWC), torch.tensor(MEAN), torch.tensor(STD))


def test_timms_task_has_the_loss_of_a_live_teacher_bit_by_bit(tmp_path: Path) -> None:
    live = Live()

    def answers(_rows: NDArray[np.int64], _view: int, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        return live(normalised(pixels_BHWC)).numpy()

    store = make_store(tmp_path, rows=60, logits=answers)

    def student() -> torch.nn.Module:
        torch.manual_seed(3)
        return timm.create_model(
            "deit_tiny_distilled_patch16_224", num_classes=CLASSES, img_size=32, patch_size=8, embed_dim=24, depth=2,
            num_heads=2,
        )  # fmt: skip

    offline = list(main_of("timm_task")(str(store), net=student(), batch=20, workers=0))
    net = student()
    task = TokenDistillationTask(net, live, torch.nn.CrossEntropyLoss(), temperature=3.0, task_loss_weight=0.5)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    online = []
    with StoredViews(store, batch=20) as views:
        assert views.store.manifest.keep == Dense()
        for seen in views:
            loss = task(seen.pixels, seen.truth(CLASSES))["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            online.append(loss.item())
    assert offline == online and len(set(online)) == 3


def test_the_webdataset_pipeline_sees_every_row(tmp_path: Path) -> None:
    urls = tiny_shards(tmp_path / "data", 40, shards=4, classes=CLASSES)
    store = make_store(tmp_path, shards=urls)
    count, distance = main_of("webdataset_pipeline")(str(store), list(urls), workers=2, batch=8)
    assert count == len(scan(urls)) and math.isfinite(distance)
    count, _ = main_of("webdataset_pipeline")(str(store), list(urls[:1]), workers=2, batch=8)
    assert count == len(scan(urls[:1])), "also where a worker has no shard"


def test_lightning_learns_and_goes_on_where_it_was(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("lightning")
    monkeypatch.chdir(tmp_path)
    example, seen = runpy.run_path(str(FOLDER / "lightning_module.py")), []
    step = example["Distilled"].training_step
    monkeypatch.setattr(
        example["Distilled"],
        "training_step",
        lambda self, batch: (seen.append((batch.epoch, batch.step)), step(self, batch))[1],
    )
    asked = {
        "model": "test_vit", "batch": 20, "workers": 2, "accelerator": "cpu", "logger": False,
        "enable_progress_bar": False, "default_root_dir": str(tmp_path),
    }  # fmt: skip
    each = len(StoredViews(store, batch=20))
    assert example["main"](str(store), **asked) == 2 * each
    assert seen == [(epoch, number) for epoch in range(2) for number in range(each)]
    seen.clear()
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert example["main"](str(store), resume=str(checkpoint), max_epochs=3, **asked) == 3 * each
    assert seen == [(2, number) for number in range(each)]


def test_hugging_faces_trainer_learns_and_goes_on_where_it_was(store: Path, tmp_path: Path) -> None:
    needs("transformers", "accelerate")
    example, seen = runpy.run_path(str(FOLDER / "hf_trainer.py")), []
    asked = {
        "model": "test_vit",
        "dataloader_num_workers": 2,
        "batch": 20,
        "use_cpu": True,
        "save_steps": 2,
        "disable_tqdm": True,
    }
    loss = example["Distiller"].compute_loss
    example["Distiller"].compute_loss = lambda self, model, inputs, **more: (
        seen.append((inputs["epoch"], inputs["step"])), loss(self, model, inputs, **more))[1]  # fmt: skip
    assert math.isfinite(example["main"](str(store), out=str(tmp_path / "out"), **asked))
    whole = [(epoch, number) for epoch in range(2) for number in range(len(StoredViews(store, batch=20)))]
    assert seen == whole
    for made in (2, 6):
        seen.clear()
        at = str(tmp_path / f"out/checkpoint-{made}")
        example["main"](str(store), out=str(tmp_path / f"again-{made}"), resume=at, **asked)
        assert seen == whole[made:]
