"""What does a stranger who finds an exported student read first?

A README.md as model hubs know it: a head of plain values (teacher, recipe, data, accuracy by head) and how to load
what lies beside it. It is written from what the checkpoint says of itself; what nobody measured is not claimed, and a
licence is the owner's to state.

Its last line is a digest of the others, so a card that somebody has edited is known, and stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.durable.file import write_text
from student.checkpoints.trained import Saved
from student.exporting.onnx_graph import FILE
from student.exporting.timm_folder import WEIGHTS

CARD = "README.md"
HERE = "local-dir:."
"""Where timm finds the student, until it is put somewhere else (`student.sharing`)"""
SEAL = "<!-- written by offline-distiller, sha256 "
HEADS = {"": "both together", "_class": "class", "_distillation": "distillation"}
"""Endings of the scores' names, and of which head they are."""

log = logging.getLogger(__name__)

TIMM = f"""
```python
import timm
import torch
from PIL import Image

model = timm.create_model("{HERE}", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
names = model.pretrained_cfg.get("label_names")
with torch.inference_mode():
    chances = model(prepare(Image.open("photo.jpg").convert("RGB"))[None]).softmax(-1)[0]
best = int(chances.argmax())
print(names[best] if names else best, float(chances[best]))
```
"""
ONNX = f"""
```python
import json

import numpy as np
import onnxruntime
from PIL import Image

how = json.load(open("preprocessing.json"))
picture, side = Image.open("photo.jpg").convert("RGB"), how["center_crop"]
scale = how["resize_short_side"] / min(picture.size)
picture = picture.resize([round(edge * scale) for edge in picture.size], Image.Resampling.BICUBIC)
left, top = ((edge - side) // 2 for edge in picture.size)
pixels = np.asarray(picture.crop((left, top, left + side, top + side)), np.float32) * how["scale"]
images = ((pixels - how["mean"]) / how["std"]).astype(np.float32).transpose(2, 0, 1)[None]
logits = onnxruntime.InferenceSession("{FILE}").run(["logits"], {{"images": images}})[0][0]
best = int(logits.argmax())
print(how["class_names"][best] if how["class_names"] else best)
```
"""


def write_card(folder: Path, saved: Saved, *, head: str, ema: bool) -> None:
    """Describe the student in a folder, unless somebody has written something there himself."""
    if (folder / CARD).exists() and not is_ours(folder / CARD):
        log.warning("%s is not as an export wrote it, and stays as it is", folder / CARD)
        return
    write_text(folder / CARD, sealed(_card(folder, saved, head=head, ema=ema)))


def sealed(text: str) -> str:
    """The text of a card with its digest at the end, by which a later export knows it for its own."""
    return f"{text}\n{SEAL}{_digest(text)} -->\n"


def is_ours(path: Path) -> bool:
    """Whether a card is still as a command wrote it, byte for byte."""
    text = unsealed(path)
    return path.read_text(encoding="utf-8", errors="replace") == sealed(text)


def unsealed(path: Path) -> str:
    """The text of the card in a file, without the digest at its end."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return text.rpartition(f"\n{SEAL}")[0] or text


def front_matter(values: Mapping[str, Any]) -> str:
    """Plain values at the head of a card: YAML, of which JSON is a part."""
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items() if value is not None]
    return "\n".join(["---", *lines, "---", ""])


def accuracy(saved: Saved, *, ema: bool) -> dict[str, float]:
    """Top-1 by head, as the run's own validation found it."""
    prefix = "ema_" if ema else ""
    found = {name: saved.scores.get(f"{prefix}top1{ending}") for ending, name in HEADS.items()}
    if saved.student.two_heads:
        return {name: value for name, value in found.items() if value is not None}
    return {} if found["both together"] is None else {"class": found["both together"]}


def tells_of_another(folder: Path, saved: Saved, *, head: str, ema: bool) -> bool:
    """Whether a card there, as an export wrote it, is of another student, head or average than these."""
    card = folder / CARD
    if not card.is_file() or not is_ours(card):
        return False
    wanted = front_matter(_facts(saved, head=head, ema=ema)).splitlines()[1:-1]
    return not set(wanted) <= set(unsealed(card).splitlines())


def _facts(saved: Saved, *, head: str, ema: bool) -> dict[str, Any]:
    """What a card says of a student in whatever format."""
    meta, store = saved.meta, saved.meta.get("store") or {}
    return {
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "knowledge-distillation", "offline-distiller", "timm", "vision"],
        "architecture": saved.spec.model,
        "image_size": saved.spec.image_size,
        "classes": saved.spec.num_classes,
        "head": head,
        "moving_average": ema,
        "epochs": saved.epoch,
        "teacher": meta.get("teacher"),
        "teacher_weights_sha256": store.get("teacher_weights"),
        "labels": store.get("keep"),
        "store": store.get("fingerprint"),
        "recipe": store.get("recipe"),
        "data": store.get("index"),
        "accuracy": accuracy(saved, ema=ema) or None,
    }


def _card(folder: Path, saved: Saved, *, head: str, ema: bool) -> str:
    meta, scores = saved.meta, accuracy(saved, ema=ema)
    library = {"library_name": "timm" if (folder / WEIGHTS).exists() else "onnx"}
    parts = [
        front_matter(library | _facts(saved, head=head, ema=ema)),
        f"# {saved.spec.model}, {saved.spec.num_classes} classes\n",
        _story(saved, ema),
    ]
    parts += [_accuracy_text(scores), _recipe_text(meta), "## How to load it\n"]
    parts += ["With timm, in this folder:\n" + TIMM] if (folder / WEIGHTS).exists() else []
    parts += ["With ONNX Runtime, in this folder:\n" + ONNX] if (folder / FILE).exists() else []
    return "\n".join(part for part in parts if part)


def _story(saved: Saved, ema: bool) -> str:
    teacher, kind = saved.meta.get("teacher"), (saved.meta.get("distill") or {}).get("kind", "none")
    taught = f", taught by the stored answers of {teacher} ({kind} distillation)" if teacher and kind != "none" else ""
    kept = "This is the moving average of its weights." if ema else "These are its weights."
    return (
        f"An image classifier for {saved.spec.image_size}² pixels, trained for {saved.epoch} epochs{taught}. {kept} "
        "Names of the classes, and how to prepare a picture: `preprocessing.json`.\n"
    )


def _accuracy_text(scores: Mapping[str, float]) -> str:
    if not scores:
        return "## Accuracy\n\nNot measured while it was trained; `student.evaluate` does it.\n"
    rows = [f"| {name} | {100 * value:.2f} % |" for name, value in scores.items()]
    return "\n".join(["## Accuracy", "", "On the validation pictures of its run:", "", "| head | top-1 |", "|---|---|",
                      *rows, ""])  # fmt: skip


def _recipe_text(meta: Mapping[str, Any]) -> str:
    recipe, settings = meta.get("recipe") or {}, meta.get("settings") or {}
    if not recipe:
        return ""
    told = [("Views", recipe), ("Training", {name: settings[name] for name in settings if name != "init"})]
    lines = [f"- {what}: " + ", ".join(f"{name} {_plain(value)}" for name, value in sorted(values.items())
                                       if value is not None) for what, values in told if values]  # fmt: skip
    return "\n".join(["## Recipe", "", *lines, ""])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
