"""How is a device handed its work, so that host and device never take turns?

    sent = stream.send(work, host)       # the host's tensor is copied over, and `work` done on it there, in order
    ...                                  # the next batch is sent meanwhile
    results = sent.wait()                # on the host; waits for this work alone, never for what was sent after it

A GPU does what it is handed in the order in which it was handed. Results are copied back right behind the work that
made them, into pinned memory, with an event that is waited for; a copy that is asked for later would stand behind the
next piece of work. The way in is a stream of its own: the copy does not wait for what is being computed. Where the
host's memory is registered (`registered`) it is read from there, without a copy on the host.

Whoever uses it knows `Stream` alone, and so runs on a processor, on CUDA, and on a device that a test makes up.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

log = logging.getLogger(__name__)

Work = Callable[[Tensor], tuple[Tensor, ...]]
"""From the copy on the device to results there"""

PORTABLE = 1
"""cudaHostRegisterPortable: pinned for every device of the process"""


class Sent(Protocol):
    """Work that a device has been handed, and may not have done yet."""

    def wait(self) -> tuple[Tensor, ...]:
        """Wait until the work is done, and give its results on the host."""


class Stream(Protocol):
    """A device that works through what it is handed, in order."""

    @property
    def apart(self) -> bool:
        """Whether it computes beside the host: then work should be under way while the host uses earlier results."""

    def send(self, work: Work, host: Tensor) -> Sent:
        """Copy `host` over and do `work` on the copy; returns as soon as `host` may be written to again."""


def stream_of(device: torch.device) -> Stream:
    """The way to hand this device its work: a stream beside the host for a GPU, a direct call for others."""
    return CudaStream(device) if device.type == "cuda" else DirectStream(device)


@dataclass(frozen=True, slots=True)
class Done:
    """Work of a device that computes when it is called: it is done already."""

    results: tuple[Tensor, ...]

    def wait(self) -> tuple[Tensor, ...]:
        """The results, on the host; there is nothing to wait for."""
        return tuple(result.cpu() for result in self.results)


@dataclass(frozen=True, slots=True)
class DirectStream:
    """A device that computes at once, while the host waits: the processor, or any that is no GPU of NVIDIA's."""

    device: torch.device
    apart: bool = False

    def send(self, work: Work, host: Tensor) -> Done:
        """Do the work at once, on a copy of `host` that lies on the device."""
        return Done(work(host.to(self.device)))


@dataclass(frozen=True, slots=True)
class OnItsWay:
    """Results that a GPU computes, and that are being copied to pinned memory."""

    results: tuple[Tensor, ...]
    arrived: torch.cuda.Event

    def wait(self) -> tuple[Tensor, ...]:
        """Sleep until the results have arrived, and give them."""
        self.arrived.synchronize()
        return self.results


class CudaStream:
    """A GPU: pixels on a stream of their own, work on the current one, results behind an event."""

    apart = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._way_in = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, work: Work, host: Tensor) -> OnItsWay:
        """Queue the copy of `host`, the work on it, and the copy of its results back."""
        current = torch.cuda.current_stream(self.device)
        source = host if host.is_pinned() else host.pin_memory()
        with torch.cuda.stream(self._way_in):
            there = source.to(self.device, non_blocking=True)
            left = sleeping_event()
            left.record(self._way_in)
        try:
            current.wait_event(left)
            there.record_stream(current)  # so that its memory is not given away while `work` reads it
            back = tuple(result.to("cpu", non_blocking=True) for result in work(there))
            arrived = sleeping_event()
            arrived.record(current)
        finally:
            left.synchronize()
        return OnItsWay(back, arrived)


def sleeping_event() -> torch.cuda.Event:
    """An event that is waited for asleep: by default the host waits busily, and takes a core from those who render."""
    return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def registered(memory: NDArray[np.uint8], device: torch.device) -> Iterator[bool]:
    """Inside this context the device reads the memory directly, without a copy; gives whether it can.

    Nothing may be on its way from the memory at the end. Where it cannot be registered (a limit of the system, another
    platform), `send` copies to pinned memory first.
    """
    if device.type != "cuda":
        yield False
        return
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    with torch.cuda.device(device):
        address, failed = memory.ctypes.data, int(runtime.cudaHostRegister(memory.ctypes.data, memory.nbytes, PORTABLE))
        if failed:
            _forget_error(device)
            log.info("the device cannot read the workers' memory by itself (CUDA error %d): views are copied", failed)
    try:
        yield not failed
    finally:
        if not failed and int(runtime.cudaHostUnregister(address)):
            _forget_error(device)


def _forget_error(device: torch.device) -> None:
    """CUDA reports an error once more with the next kernel; have it reported to nobody."""
    with contextlib.suppress(RuntimeError):
        torch.ones(1, device=device).add_(1)
