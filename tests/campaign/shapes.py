"""Small files that describe something huge, or hold what is no number: cases of the row `hostile`.

A checkpoint with a right digest, weights, a folder for timm, a row of JSON. Each is a few kilobytes to a few megabytes,
and is given to the command or the function that reads it.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor

from pipeline.shards.index import scan
from pipeline.teacher.loading import load_teacher
from student import evaluate
from student.checkpoints import checkpoint
from student.checkpoints.starting_weights import read_initial
from student.checkpoints.trained import open_saved
from tests import pictures
from tests.pictures import tiny_shards, write_tar
from tests.saved_runs import save_run

State = dict[str, Any]
Attack = Callable[[Path, Path], object]
HUGE = 1 << 44


def oddities() -> dict[str, Tensor]:
    """Tensors that a file can hold in little room, or that are no plain numbers."""
    one = torch.ones(1)
    return {
        "expanded": one.expand(HUGE),
        "sparse": torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), one, (HUGE,)),
        "in compressed rows": torch.eye(4).to_sparse_csr(),
        "quantised": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        "meta": torch.empty(HUGE, device="meta"),
        "complex": torch.ones(4, dtype=torch.complex64),
        "overlapping": torch.ones(1 << 20).as_strided((1 << 19, 1 << 19), (1, 1)),
    }


def cases() -> Iterator[tuple[str, Attack]]:
    """Names and attacks."""
    yield from (("a checkpoint: " + name, _checkpoint(change)) for name, change in _checkpoints().items())
    yield from (("a checkpoint: NaN in " + name, _evaluated(name)) for name in ("net.head.weight", "net.head.bias"))
    for name, odd in oddities().items():
        yield f"a checkpoint: head {name}", _checkpoint(lambda s, odd=odd: s["model"].update({"net.head.weight": odd}))
        yield f"weights: head {name}", _weights({"fc.weight": odd})
        yield f"--init: pos_embed {name}", _initial({"pos_embed": odd})
    yield from _heads()
    yield "weights: parts of the file that overlap", _overlapping
    yield from (("a folder: " + name, _folder(change)) for name, change in _folders().items())
    yield from (("a folder: weights " + n, _folder_of({"fc.weight": odd})) for n, odd in oddities().items())
    yield "a label of JSON given twice", _twice


def _checkpoints() -> dict[str, Callable[[State], object]]:
    def spec(**fields: object) -> Callable[[State], object]:
        return lambda state: state["spec"].update(fields)

    def meta(**fields: object) -> Callable[[State], object]:
        return lambda state: state["meta"].update(fields)

    def put(**fields: object) -> Callable[[State], object]:
        return lambda state: state.update(fields)

    def ring(state: State) -> None:
        state["meta"]["recipe"] = [state["meta"]]

    sizes = (("depth", 65536), ("depth", 1024), ("image_size", 65536), ("image_size", 4096), ("width", 16384))
    return {
        **{f"{name} {value}": spec(**{name: value}) for name, value in sizes},
        "65536 classes": spec(num_classes=65536),
        "a patch of 1": spec(patch_size=1, image_size=4096),
        "1024 heads": spec(heads=1024),
        "width a text": spec(width="64"),
        "depth true": spec(depth=True),
        "drop_path a text": spec(drop_path="0.1"),
        "model a number": spec(model=7),
        "image_size None": spec(image_size=None),
        "spec a list": put(spec=[1]),
        "meta a number": put(meta=7),
        "mean of two numbers": meta(mean=[0.5, 0.5]),
        "mean a text": meta(mean="0.5"),
        "std 0": meta(std=[0.2, 0.0, 0.2]),
        "std NaN": meta(std=[0.2, float("nan"), 0.2]),
        "class names that are numbers": meta(class_names=[1, 2, 3, 4]),
        "two class names": meta(class_names=["ant", "bee"]),
        "no model": lambda state: state.pop("model"),
        "no ema": lambda state: state.pop("ema"),
        "model a tensor": put(model=torch.ones(2)),
        "an epoch that is a text": put(epoch="3"),
        "a step below zero": put(step=-1),
        "a dictionary that holds itself": ring,
    }


def _checkpoint(change: Callable[[State], object]) -> Attack:
    def attack(folder: Path, _: Path) -> None:
        save_run(folder / "run")
        state = checkpoint.load(folder / "run")
        change(state)
        checkpoint.save(folder / "run", {name: value for name, value in state.items() if name != "format"})
        open_saved(folder / "run")

    return attack


def _evaluated(name: str) -> Attack:
    def attack(folder: Path, _: Path) -> None:
        student, _other = save_run(folder / "run", ema=False)
        state = checkpoint.load(folder / "run")
        state["model"] = {**student.state_dict(), name: torch.full_like(student.state_dict()[name], float("nan"))}
        checkpoint.save(folder / "run", {key: value for key, value in state.items() if key != "format"})
        tiny_shards(folder / "data", rows=8, classes=4)
        shards = f"{folder}/data/*.tar"
        evaluate.main(["--checkpoint", str(folder / "run"), "--shards", shards, "--device", "cpu", "--workers", "0"])

    return attack


def _state(changes: dict[str, Tensor], classes: int = 3) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        return {**timm.create_model("test_resnet", num_classes=classes).state_dict(), **changes}


def _weights(changes: dict[str, Tensor]) -> Attack:
    def attack(folder: Path, _: Path) -> None:
        torch.save(_state(changes), folder / "teacher.pth")
        load_teacher("test_resnet", view_size=32, weights=folder / "teacher.pth", device="cpu", input_size="view")

    return attack


def _initial(changes: dict[str, Tensor]) -> Attack:
    def attack(folder: Path, _: Path) -> None:
        torch.save(changes, folder / "start.pth")
        read_initial(folder / "start.pth")

    return attack


def _heads() -> Iterator[tuple[str, Attack]]:
    heads = {
        "of 2^30 classes, expanded from 11 MB": torch.ones(1, 2_750_000).expand(1 << 30, 2_750_000),
        "of 2^40 classes of nothing": torch.ones(1 << 40, 0),
        "without a dimension": torch.tensor(1.0),
        "without a row": torch.ones(0, 512),
    }
    for name, head in heads.items():
        yield f"weights: a head {name}", _weights({"fc.weight": head})

    def safe(folder: Path, _: Path) -> None:
        header = json.dumps({"fc.weight": {"dtype": "F32", "shape": [1 << 40, 0], "data_offsets": [0, 0]}}).encode()
        (folder / "teacher.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        load_teacher("test_resnet", view_size=32, weights=folder / "teacher.safetensors", device="cpu")

    yield "safetensors: a head of 2^40 classes of nothing", safe


def _overlapping(folder: Path, _: Path) -> None:
    """A zip whose directory names one member a thousand times."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data/0", bytes(4 << 20))
        member = archive.filelist[0]
        for _number in range(1000):
            archive.filelist.append(member)
    (folder / "teacher.pth").write_bytes(data.getvalue())
    load_teacher("test_resnet", view_size=32, weights=folder / "teacher.pth", device="cpu")


def _config() -> State:
    cfg = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32], "num_classes": 3, "classifier": "fc"}
    cfg["first_conv"] = "conv1.0"
    return {"architecture": "test_resnet", "num_classes": 3, "num_features": 512, "pretrained_cfg": cfg}


def _folders() -> dict[str, Callable[[State], object]]:
    def cfg(**fields: object) -> Callable[[State], object]:
        return lambda config: config["pretrained_cfg"].update(fields)

    def vit(**arguments: object) -> Callable[[State], object]:
        return lambda config: config.update(architecture="test_vit", model_args=arguments)

    return {
        "mean a text": cfg(mean="x"),
        "mean of two numbers": cfg(mean=[0.5, 0.5]),
        "std 0": cfg(std=[0.5, 0, 0.5]),
        "pictures of 65536 pixels": cfg(input_size=[3, 65536, 65536]),
        "2^40 classes": lambda config: config.update(num_classes=1 << 40),
        "65536 classes": lambda config: config.update(num_classes=65536, model_args={"num_classes": 1 << 20}),
        "classes a text": lambda config: config.update(num_classes="3"),
        "labels that are numbers": lambda config: config.update(label_names=[1, 2, 3]),
        "no architecture": lambda config: config.pop("architecture"),
        "architecture a list": lambda config: config.update(architecture=["test_resnet"]),
        "pretrained_cfg a list": lambda config: config.update(pretrained_cfg=[1]),
        "arguments a list": lambda config: config.update(model_args=[1]),
        "a depth of 10^9": vit(depth=10**9),
        "a depth of 1024": vit(depth=1024, num_classes=3),
        "a width of 2^20": vit(embed_dim=1 << 20, num_classes=3),
        "pictures of 2048 pixels in patches of 1": vit(img_size=2048, patch_size=1, num_classes=3),
        "arguments nested ten deep": vit(block_fn=[[[[[[[[[[1]]]]]]]]]]),
    }


def _folder(change: Callable[[State], object]) -> Attack:
    def attack(folder: Path, _: Path) -> None:
        config = _config()
        change(config)
        (folder / "config.json").write_text(json.dumps(config))
        safetensors.torch.save_file(_state({}), folder / "model.safetensors")
        load_teacher(f"local-dir:{folder}", view_size=32, device="cpu")

    return attack


def _folder_of(changes: dict[str, Tensor]) -> Attack:
    def attack(folder: Path, _: Path) -> None:
        (folder / "config.json").write_text(json.dumps(_config()))
        torch.save(_state(changes), folder / "pytorch_model.bin")
        load_teacher(f"local-dir:{folder}", view_size=32, device="cpu")

    return attack


def _twice(folder: Path, _: Path) -> None:
    row = [("a.jpg", pictures.jpeg(1)), ("a.json", b'{"label": 1, "x": {"y": 2}, "label": 2}')]
    scan([str(write_tar(folder / "x.tar", row))])
