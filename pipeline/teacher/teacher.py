"""What does the teacher say about these pixels? Any timm model, or one of the user's own, as uint8 views → logits.

    teacher = load_teacher("regnety_160.deit_in1k", view_size=224, device="auto")
    logits_BC = teacher(pixels_BHWC)                # float32, on the CPU, in the order of the data set's classes

The teacher sees a view at the size and with the statistics on its card (`pipeline.teacher.loading` chooses them).
Answers must be finite.

Shapes: B views, H W sides, C classes, M classes of the model before the class map.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pipeline.errors import MismatchError, TeacherError
from pipeline.models.device import PRECISIONS, autocast
from pipeline.models.stream import Sent, Stream, stream_of
from pipeline.shards.index import SampleIndex
from pipeline.store.manifest import TeacherCard
from pipeline.teacher.class_names import BY_NAME, TeacherNames, listed, require_same_names

log = logging.getLogger(__name__)

Then = Callable[[Tensor], tuple[Tensor, ...]]
"""What is made of logits on the device"""

COMPILED = "+compile"
"""Follows the precision of a teacher that is compiled: its kernels round otherwise, so it is another teacher"""


class Teacher:
    """A frozen model with its card: call it with uint8 views, get float32 logits."""

    def __init__(
        self,
        model: nn.Module,
        card: TeacherCard,
        device: torch.device,
        *,
        class_map: Sequence[int] | None = None,
        compiled: bool = False,
        names: TeacherNames | None = None,
        stream: Stream | None = None,
    ) -> None:
        """`stream` is how the device is handed its work, if not as its kind is."""
        self.precision, compiled = _parts(card.precision, compiled)
        self.card = replace(card, precision=self.precision + (COMPILED if compiled else ""))
        self.device, self.names = device, names
        self.stream = stream or stream_of(device)
        self.fills = compiled or device.type == "cuda"
        """Whether a short batch is filled up to the teacher's own: one shape, hence one graph and one set of kernels"""
        self._unmet = compiled
        self.class_map = None if class_map is None else tuple(class_map)
        self._model = model.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        # one graph a shape: else the graphs would depend on which shapes were seen first, and so on where a run began
        self._forward = torch.compile(self._model, dynamic=False) if compiled else self._model
        self._map = None if class_map is None else torch.tensor(list(class_map), device=device)
        stats = [torch.tensor(v, device=device).mul(255.0).view(1, 3, 1, 1) for v in (card.mean, card.std)]
        self._mean_1311, self._std_1311 = stats

    @property
    def num_classes(self) -> int:
        """Classes of an answer: the model's, or those that the class map picks."""
        return self.card.classes if self.class_map is None else len(self.class_map)

    @property
    def parameters(self) -> int:
        """How many weights the model has."""
        return sum(weights.numel() for weights in self._model.parameters())

    def require_classes_of(self, index: SampleIndex) -> None:
        """Refuse data whose classes are not those of the answers: by their number, and by their names."""
        highest = int(index.classes.max(initial=-1))
        if index.class_names is not None and len(index.class_names) != self.num_classes:
            own = "" if self.names is None else f" ({listed(self.names.names)})"
            raise MismatchError(
                f"The shards have {len(index.class_names)} classes ({listed(index.class_names)}), "
                f"{self.card.name} answers with {self.num_classes}{own}. Pick and order its classes with --class-map "
                f"({BY_NAME}, or a file), or fit a teacher to these shards: python -m stages.fit_teacher."
            )
        if highest >= self.num_classes:
            raise MismatchError(
                f"The shards have a row of class {highest}, {self.card.name} answers with classes 0 to "
                f"{self.num_classes - 1}. Give --class-map, or fit a teacher to these shards."
            )
        require_same_names(index.class_names, self.names, self.class_map, self.card.name)

    def __call__(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits of a batch of views."""
        logits_BC: NDArray[np.float32] = self.collect(self.launch(pixels_BHWC))[0]
        return logits_BC

    def launch(self, pixels_BHWC: NDArray[np.uint8], then: Then = lambda logits_BC: (logits_BC,)) -> Launched:
        """Start the forward pass, and `then` what is made of its logits where they are; the pixels may be reused.

        On a GPU this returns before anything is computed.
        """
        answering, begun = Answering(self, then), time.perf_counter()
        sent = self.stream.send(answering, torch.from_numpy(pixels_BHWC))
        if self._unmet:
            self._unmet = False
            log.info("--compile: the first batch took %.1f s, compilation included", time.perf_counter() - begun)
        return Launched(answering, sent)

    def collect(
        self,
        launched: Launched,
        name: Callable[[int], str] = lambda at: f"view {at} of a batch",
    ) -> tuple[NDArray[Any], ...]:
        """Wait for one forward pass and what was made of it; where it is not finite the run stops: `name` says whose.

        Nothing is waited for that was launched later.
        """
        finite, *parts = launched.sent.wait()
        if not finite:
            answer = launched.logits()
            at, cls = np.argwhere(~np.isfinite(answer))[0].tolist()
            raise TeacherError(
                f"{self.card.name} answered {answer[at, cls]} for class {cls} of {name(at)}, in "
                f"{self.card.precision}. Use --precision fp32 (fp16 overflows at 65,504), and check the weights."
            )
        return tuple(part.numpy() for part in parts)

    def forward(self, pixels_BHWC: Tensor) -> Tensor:
        """The logits of these views, which stay on the device."""
        count = len(pixels_BHWC)
        if self.fills and count < self.card.batch_size:
            rest = pixels_BHWC.new_zeros((self.card.batch_size - count, *pixels_BHWC.shape[1:]))
            pixels_BHWC = torch.cat([pixels_BHWC, rest])
        x_BCHW = pixels_BHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
        size = self.card.input_size
        if x_BCHW.shape[-1] != size:
            x_BCHW = F.interpolate(x_BCHW, (size, size), mode="bicubic", antialias=True).clamp(0, 255)
        x_BCHW = (x_BCHW - self._mean_1311) / self._std_1311
        with autocast(self.device, self.precision):
            logits_BM: Tensor = self._forward(x_BCHW)
        if logits_BM.ndim != 2 or logits_BM.shape[1] != self.card.classes:
            raise TeacherError(
                f"{self.card.name} answered with shape {tuple(logits_BM.shape)} where (batch, {self.card.classes}) "
                "was expected; a teacher is a classifier that gives one row of logits a view."
            )
        logits_BM = logits_BM[:count].float()
        return logits_BM if self._map is None else logits_BM[:, self._map]


class Answering:
    """One forward pass, and what is made of it; done by the device when its turn comes."""

    def __init__(self, teacher: Teacher, then: Then) -> None:
        self._teacher, self._then = teacher, then
        self.logits_BC: Tensor | None = None

    @torch.inference_mode()
    def __call__(self, pixels_BHWC: Tensor) -> tuple[Tensor, ...]:
        """Whether all logits are finite, and what was asked for."""
        self.logits_BC = self._teacher.forward(pixels_BHWC)
        return torch.isfinite(self.logits_BC).all(), *self._then(self.logits_BC)


@dataclass(frozen=True, slots=True)
class Launched:
    """The answers to a batch that a device is still computing."""

    answering: Answering
    sent: Sent

    def logits(self) -> NDArray[np.float32]:
        """What the teacher said, brought from the device: where something is to be said about it."""
        self.sent.wait()
        assert self.answering.logits_BC is not None
        logits_BC: NDArray[np.float32] = self.answering.logits_BC.cpu().numpy()
        return logits_BC


def _parts(text: str, compiled: bool) -> tuple[str, bool]:
    """A card's precision as the number format, and whether the model is compiled; `compiled` asks for it, too."""
    precision = text.removesuffix(COMPILED)
    if precision not in PRECISIONS:
        raise TeacherError(f"no teacher runs in precision {text!r}; {', '.join(PRECISIONS)} are known.")
    return precision, compiled or text.endswith(COMPILED)
