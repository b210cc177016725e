"""A device that computes by itself is never kept waiting by the host, and the store is the one that the host writes."""

import dataclasses
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import safetensors.torch
import timm
import torch

from pipeline.errors import TeacherError
from pipeline.labelling import fill
from pipeline.labelling.fill import label_missing
from pipeline.labelling.writers import open_to_label
from pipeline.labels.keeps import parse_keep
from pipeline.shards.index import scan
from pipeline.teacher.loading import load_teacher
from tests.pictures import tiny_shards
from tests.stores import manifest_of, tree

NET, ROWS, BATCH, VIEWS, SIDE = "test_resnet", 72, 16, 2, 32
BATCHES = VIEWS * 5
WAIT_S = 120.0


class SimulatedDevice:
    """One thread copies in, one thread computes in the order of asking; results lie beside what made them.

    With `late_copies` results are asked for as `tensor.cpu()` does it: behind all that was queued meanwhile.
    """

    apart = True

    def __init__(self, *, late_copies: bool = False) -> None:
        self.way_in, self.computing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.late_copies = late_copies
        self.sent = self.used = 0
        self.gate: threading.Event | None = None
        """Opened when an answer was used; from the third on, work waits for it"""
        self.kept_waiting = False

    def send(self, work, host):
        copied = self.way_in.submit(host.clone)
        answer = self.computing.submit(self._compute, work, copied, self.sent)
        self.sent += 1
        copied.result()
        return _Under(self, answer)

    def _compute(self, work, copied: Future, number: int):
        there = copied.result()
        if self.gate is not None and number == 2 and not self.gate.wait(WAIT_S):
            self.kept_waiting = True
        return work(there)


@dataclasses.dataclass
class _Under:
    device: SimulatedDevice
    answer: Future

    def wait(self):
        results = self.answer.result()
        if self.device.late_copies:
            self.device.computing.submit(lambda: None).result()
        self.device.used += 1
        if self.device.gate is not None:
            self.device.gate.set()
        return results


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fill")
    tiny_shards(folder, rows=ROWS, shards=1, classes=12)
    torch.manual_seed(0)
    weights = folder / "teacher.safetensors"
    safetensors.torch.save_file(timm.create_model(NET, num_classes=12).state_dict(), weights)
    return scan([str(folder / "000000.tar")]), weights


def teacher_of(world, device=None):
    teacher = load_teacher(NET, view_size=SIDE, weights=world[1], device="cpu", input_size="view", batch_size=BATCH)
    if device is not None:
        teacher.stream = device
    return teacher


def label(world, path, teacher, keep="topk:3"):
    index = world[0]
    manifest = manifest_of(index, keep, teacher=teacher.card)
    manifest = dataclasses.replace(manifest, recipe=dataclasses.replace(manifest.recipe, image_size=SIDE))
    with open_to_label(path, manifest, index, VIEWS) as store:
        label_missing(store, teacher, workers=0, shown=False)
        store.finish()


@pytest.mark.parametrize("keep", ["argmax", "topk:3", "dense"])
def test_a_device_beside_the_host_writes_the_same_store(world, tmp_path, keep):
    label(world, tmp_path / "host", teacher_of(world), keep)
    label(world, tmp_path / "device", teacher_of(world, SimulatedDevice()), keep)
    assert tree(tmp_path / "device") == tree(tmp_path / "host")


@pytest.mark.parametrize("late", [False, True], ids=["behind its work", "as it was"])
def test_an_answer_is_used_while_the_next_is_computed(world, tmp_path, late):
    """The third batch is not computed before the first answer was used: who waits for the third has waited in vain."""
    device = SimulatedDevice(late_copies=late)
    device.gate = threading.Event()
    if late:
        device.gate.wait = lambda _seconds: device.gate.is_set() or bool(time.sleep(0.2))  # it would wait for ever
    label(world, tmp_path / "store", teacher_of(world, device))
    assert device.used == device.sent == BATCHES
    assert device.kept_waiting is late


class ReckonedDevice:
    """Computes at once, and reckons when a device that takes a second a batch would have done so."""

    apart = True

    def __init__(self, *, late_copies: bool) -> None:
        self.late_copies = late_copies
        self.host = self.free = self.idle = 0.0
        """The clock of the host, when all that was sent is computed, and how long there was nothing to do"""

    def send(self, work, host):
        self.idle += max(self.host - self.free, 0.0)
        self.free = max(self.host, self.free) + 1.0
        return _Reckoned(self, work(host), self.free)


@dataclasses.dataclass
class _Reckoned:
    device: ReckonedDevice
    results: tuple
    done: float

    def wait(self):
        device = self.device
        device.host = max(device.host, device.free if device.late_copies else self.done)
        return self.results


@pytest.mark.parametrize("host_s", [0.9])
def test_the_device_always_has_work_while_the_host_is_busy(world, tmp_path, monkeypatch, host_s):
    """Where answers are fetched from behind the queue, the device rests for as long as the host works."""
    found, answers = {}, fill._answers
    for late in (False, True):
        device = ReckonedDevice(late_copies=late)

        def busily(*given, device=device):
            for answer in answers(*given):
                device.host += host_s
                yield answer

        monkeypatch.setattr(fill, "_answers", busily)
        label(world, tmp_path / f"store-{late}", teacher_of(world, device))
        found[late] = device.idle
    assert found[False] == 0 and found[True] > host_s * (BATCHES - 4) / 2, found


@pytest.mark.parametrize(
    "value, said", [(float("nan"), "answered nan for class 4"), (500.0, "the teacher's logit 500")]
)
@pytest.mark.parametrize("apart", [False, True], ids=["host", "device"])
def test_what_cannot_be_stored_is_refused_by_name(world, tmp_path, value, said, apart):
    teacher = teacher_of(world, SimulatedDevice() if apart else None)
    forward = teacher._forward

    def spoilt(x):
        logits = forward(x).clone()
        logits[3, 4] = value
        return logits

    teacher._forward = spoilt
    with pytest.raises(TeacherError, match=f"{said}.*row 3, view 0"):
        label(world, tmp_path / "store", teacher)


def test_a_keep_that_holds_no_logits_takes_any(world, tmp_path):
    for name, device in (("host", None), ("device", SimulatedDevice())):
        teacher = teacher_of(world, device)
        forward = teacher._forward
        teacher._forward = lambda x, forward=forward: forward(x) * 1e4
        label(world, tmp_path / name, teacher, "argmax")
    assert tree(tmp_path / "host") == tree(tmp_path / "device") and parse_keep("argmax").kind == "argmax"
