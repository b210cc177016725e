"""On a machine with CUDA: what would decoding and drawing on the device give?

    python -m benchmarks device_plans --photographs FOLDER --workers 16 --seconds 20

How fast JPEGs are decoded on the GPU (torchvision's nvJPEG) beside one core, and what decoding and executing the same
plans there (`benchmarks.device_render`) gives, beside the loader. Planning and reading are the host's work, and
counted. Nothing is proven there; what bringing the pixels back would take is measured. Needs a CUDA build of torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.bench import Bench
from benchmarks.device_render import draw
from benchmarks.loaders import our_epochs
from benchmarks.race import Contestant, race
from benchmarks.render import WINDOW
from benchmarks.report import Table, grid
from pipeline.errors import UserError
from pipeline.pictures.images import decode
from pipeline.rendering.loader import Loader
from pipeline.rendering.renderer import Renderer
from pipeline.shards.files import ShardFiles
from pipeline.shards.index import SampleIndex
from pipeline.shards.rows import payload_of
from pipeline.views.plan import ViewPlan, plan_views
from pipeline.views.recipe import Recipe

ROWS, VIEWS = 2048, 8
DECODED_TOGETHER = 64
Ints = NDArray[np.int64]
Decoder = Callable[[Sequence[bytes], torch.device], list[Tensor]]


def measure(bench: Bench) -> Table:
    """Decoders, then plans."""
    if not torch.cuda.is_available():
        raise UserError(
            "device_plans measures on CUDA, and torch finds none here. Run it on a machine with an NVIDIA GPU and a "
            "CUDA build of torch."
        )
    index = bench.photographs.indexed(bench.scratch("plans"), ROWS)
    missing = why_no_nvjpeg(bench.photographs.payloads[:ROWS])
    rows = decode_rows(bench) if not missing else [("nvJPEG", f"cannot be measured: {missing}", "")]
    rows += plan_rows(bench, index, torch.device("cuda"), None if missing else nvjpeg)
    return Table(
        name="device_plans",
        title=f"Decoding and drawing on a GPU, {bench.workers} workers beside it",
        columns=("what", "figure", "share"),
        rows=grid(rows),
        figures={name: float(share) for name, _, share in rows if share},
        notes=(
            "Shares: of the loader at as many views a decode. A plan on the GPU: planned on the host, no checksum, no "
            "thumbnail, another decoder.",
        ),
    )


def decode_rows(bench: Bench) -> list[tuple[str, str, str]]:
    """nvJPEG beside libjpeg-turbo on one core."""
    payloads, device = bench.photographs.payloads[:256], torch.device("cuda")

    def on_gpu() -> int:
        count = len(nvjpeg(payloads, device))
        finish(device)
        return count

    runs = {"nvJPEG": on_gpu, "libjpeg-turbo, one core": lambda: len([decode(payload) for payload in payloads])}
    result = race(runs, seconds=bench.seconds / 2)
    return [(f"decode: {name}", f"{result.rate(name).median:,.0f} images/s", "") for name in runs]


def nvjpeg(payloads: Sequence[bytes], device: torch.device) -> list[Tensor]:
    """The pictures [3, H, W], decoded on the GPU."""
    from torchvision.io import ImageReadMode, decode_jpeg

    data = [torch.frombuffer(bytearray(payload), dtype=torch.uint8) for payload in payloads]
    parts = (data[start : start + DECODED_TOGETHER] for start in range(0, len(data), DECODED_TOGETHER))
    return [picture for part in parts for picture in decode_jpeg(part, ImageReadMode.RGB, device)]


def turbo(payloads: Sequence[bytes], device: torch.device) -> list[Tensor]:
    """The pictures [3, H, W], decoded by the processor."""
    return [torch.from_numpy(decode(payload)).permute(2, 0, 1).contiguous().to(device) for payload in payloads]


def why_no_nvjpeg(payloads: Sequence[bytes]) -> str:
    """What keeps nvJPEG from these pictures: a torchvision without it, or one of them; empty where nothing does."""
    try:
        for start in range(0, len(payloads), DECODED_TOGETHER):
            nvjpeg(payloads[start : start + DECODED_TOGETHER], torch.device("cuda"))
    except RuntimeError as error:
        return str(error).splitlines()[0][:80]
    return ""


def finish(device: torch.device) -> None:
    """Wait for what was handed to the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def plan_rows(
    bench: Bench, index: SampleIndex, device: torch.device, decoder: Decoder | None
) -> list[tuple[str, str, str]]:
    """Plans executed on the device, beside the loader's processes; and how far their pixels are apart."""
    many = 2 if bench.tiny else VIEWS
    rows, files = np.arange(min(len(index), WINDOW * many)), index.files()
    decoded = _by_row(rows, turbo([payload_of(index, files, row) for row in rows.tolist()], device))
    before = f"plan on {device}, pictures decoded before"
    runs = {
        "plan on the host, not executed": _planned(index, rows, many, WINDOW * many, lambda plan: None),
        before: _planned(index, rows, many, WINDOW * many, lambda plan: _execute(plan, decoded, device)),
        "pixels brought back to the host": _brought_back(WINDOW * many, device),
    }
    peers = {before: many}
    for views in (1, many) if decoder else ():
        name = f"decode and plan on {device}, {views} views a decode"
        work = partial(_decode_and_execute, index, files, cast(Decoder, decoder), device)
        runs[name], peers[name] = _planned(index, np.arange(len(index)), views, WINDOW * many, work), views
    ours = {views: f"loader with {bench.workers} workers, {views} views a decode" for views in (1, many)}
    with ExitStack() as stack:
        for views, name in ours.items():
            loader = Loader(Recipe(), index, batch=WINDOW, workers=bench.workers, together=views)
            runs[name] = our_epochs(stack.enter_context(loader), index, views)
        result = race(runs, seconds=bench.seconds / 2, fewest=bench.fewest)
    shares = {name: f"{result.ratio(name, ours[views]).median:.3f}" for name, views in peers.items()}
    table = [(name, f"{result.rate(name).median:,.0f} views/s", shares.get(name, "")) for name in runs]
    return [*table, _agreement(index, decoded)]


def _planned(index: SampleIndex, rows: Ints, views: int, together: int, work: Callable[[ViewPlan], None]) -> Contestant:
    """About so many views a turn, in new views of stretches of rows: planned, and worked on."""
    count = min(len(rows), together // views)
    stretches = itertools.cycle([rows[start : start + count] for start in range(0, len(rows) - count + 1, count)])
    first = itertools.count(0, views)

    def turn() -> int:
        row_N, start = next(stretches), next(first)
        view_B = np.repeat(np.arange(start, start + views), len(row_N))
        plan = plan_views(Recipe(), index, np.tile(row_N, views), view_B)
        work(plan)
        return len(plan)

    return turn


def _execute(plan: ViewPlan, pictures: Mapping[int, Tensor], device: torch.device) -> None:
    draw(Recipe(), plan, pictures)
    finish(device)


def _decode_and_execute(
    index: SampleIndex, files: ShardFiles, decoder: Decoder, device: torch.device, plan: ViewPlan
) -> None:
    rows = np.unique(plan.row_B)
    payloads = [payload_of(index, files, row) for row in rows.tolist()]
    _execute(plan, _by_row(rows, decoder(payloads, device)), device)


def _by_row(rows: Ints, pictures: Sequence[Tensor]) -> dict[int, Tensor]:
    return dict(zip(rows.tolist(), pictures, strict=True))


def _brought_back(count: int, device: torch.device) -> Contestant:
    """Views as they are drawn to views as they are proven, in memory that the device writes to itself."""
    side = Recipe().image_size
    drawn_BCSS = torch.zeros((count, 3, side, side), dtype=torch.uint8, device=device)
    host_BSSC = torch.empty((count, side, side, 3), dtype=torch.uint8, pin_memory=device.type == "cuda")

    def turn() -> int:
        host_BSSC.copy_(drawn_BCSS.permute(0, 2, 3, 1).contiguous(), non_blocking=True)
        finish(device)
        return count

    return turn


def _agreement(index: SampleIndex, decoded: Mapping[int, Tensor]) -> tuple[str, str, str]:
    """How many values are those of the processor's renderer, without erasing, from the same decoded pictures."""
    recipe, row_B = Recipe(erase=0.0), np.arange(min(len(index), WINDOW))
    plan = plan_views(recipe, index, row_B, np.zeros_like(row_B))
    wanted_BSSC = np.empty((len(plan), recipe.image_size, recipe.image_size, 3), np.uint8)
    Renderer(recipe, index, index.files()).render(plan.row_B, plan.view_B, wanted_BSSC)
    drawn_BSSC = draw(recipe, plan, decoded).permute(0, 2, 3, 1).cpu().numpy()
    gap_BSSC = np.abs(drawn_BSSC.astype(np.int16) - wanted_BSSC)
    return "values as the processor's, unerased", f"{100 * (gap_BSSC == 0).mean():.4f} %, {gap_BSSC.max()} off", ""
