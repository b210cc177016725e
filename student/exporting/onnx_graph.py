"""How does a student leave for a program without PyTorch, and does it say the same there?

As one ONNX file with any batch size: ``images`` [batch, 3, H, W], already normalised, to ``logits`` (fused, or the head
that was asked for) and, where there are two heads, ``class_logits`` and ``distillation_logits``. How to prepare a
picture stands in the file's own metadata. After writing, ONNX Runtime and PyTorch answer the same images.
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.durable.file import write_with
from pipeline.errors import StudentError
from student.exporting.timm_folder import chosen, require_head
from student.network.model import Student

FILE = "model.onnx"
TOLERANCE = 1e-3
"""Largest difference of a logit that rounding explains; a wrong graph is off by whole logits."""

LARGEST = 2**31 - 1
"""Bytes of an ONNX file, a protocol buffer."""


class Graph(nn.Module):
    """A student whose answers are plain tensors, as a graph must have them."""

    def __init__(self, student: Student, head: str) -> None:
        super().__init__()
        self.student = student
        self.head = head

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The chosen logits, then each head's where there are two."""
        heads = self.student(images)
        if heads.dist is None:
            return (heads.cls,)
        return chosen(heads, self.head), heads.cls, heads.dist


def write_onnx(student: Student, folder: Path, prepared: dict[str, object], head: str = "fused") -> tuple[Path, float]:
    """Write the file and hold it against PyTorch; the largest difference of a logit."""
    require_head(student, head)
    graph = Graph(student, head).eval()
    size = student.spec.image_size
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    names = ["logits", *(["class_logits", "distillation_logits"] if student.two_heads else [])]
    if sum(tensor.nbytes for tensor in graph.state_dict().values()) > LARGEST:
        raise StudentError(f"{student.spec.model} is larger than one ONNX file can be (2 GiB). Use --format timm.")
    with _quiet():
        program = torch.onnx.export(
            graph,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    described = {"preprocessing": prepared, "head": head, "architecture": student.spec.model}
    program.model.metadata_props.update({name: json.dumps(value) for name, value in described.items()})
    differences: list[float] = []

    def save(temporary: Path) -> None:
        program.save(temporary, external_data=False)
        differences.append(_checked(temporary, graph, images))

    return write_with(folder / FILE, save), differences[0]


def _checked(path: Path, graph: Graph, images: Tensor) -> float:
    import onnxruntime  # only now: it is an extra

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = []
    for count in (1, len(images)):
        with torch.inference_mode():
            expected = graph(images[:count])
        found = session.run(None, {"images": images[:count].numpy()})
        for ours, theirs in zip(expected, found, strict=True):
            differences.append((ours - torch.from_numpy(theirs)).abs().max())
    worst = torch.stack(differences).max().item()  # not a number where any is
    if not worst <= TOLERANCE:
        raise StudentError(
            f"ONNX Runtime's logits differ from PyTorch's by {worst:.3g}, more than {TOLERANCE:g}: none is written. "
            "Use --format timm, or another architecture."
        )
    return worst


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks about itself are for its authors."""
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
