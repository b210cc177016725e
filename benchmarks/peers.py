"""What do others do with the same photographs? timm's transform as DeiT calls it, and the loaders around it.

Payloads are in memory where a peer can take them from there, so that no peer pays for a file system. Every loader runs
whole epochs with workers that live on from one to the next: nothing is prefetched in another contestant's turn.
"""

from __future__ import annotations

import importlib
import io
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import webdataset
from PIL import Image
from timm.data.loader import create_loader
from timm.data.transforms_factory import create_transform
from torch.utils.data import Dataset

SIDE, BATCH = 224, 64
DEIT: dict[str, Any] = {
    "input_size": (3, SIDE, SIDE), "is_training": True, "interpolation": "bicubic", "color_jitter": 0.3,
    "auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "re_mode": "pixel", "re_count": 1,
}  # fmt: skip
Transform = Callable[[Image.Image], Any]


def opened(payload: bytes) -> Image.Image:
    """As ImageFolder and timm open a file."""
    return Image.open(io.BytesIO(payload)).convert("RGB")


def transform(*, to_uint8: bool) -> Transform:
    """DeiT's training transform: to a normalised, erased float tensor, or to uint8 before either."""
    made: Transform = create_transform(**DEIT, use_prefetcher=to_uint8)
    return made


class InMemory(Dataset[tuple[Any, int]]):
    """Payloads as a map-style dataset; timm sets the transform."""

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self.payloads = payloads
        self.transform: Transform = Image.Image.copy

    def __len__(self) -> int:
        return len(self.payloads)

    def __getitem__(self, item: int) -> tuple[Any, int]:
        return self.transform(opened(self.payloads[item])), item % 1000


def timm_loader(payloads: Sequence[bytes], workers: int, *, to_uint8: bool) -> Any:
    """`timm.data.create_loader` with DeiT's flags; to uint8 it is the loader inside timm's prefetcher."""
    options = {name: value for name, value in DEIT.items() if name != "is_training"}
    loader = create_loader(
        cast(Any, InMemory(payloads)), batch_size=BATCH, is_training=True, num_workers=workers, use_prefetcher=to_uint8,
        persistent_workers=True, pin_memory=False, device=torch.device("cpu"), **options,
    )  # fmt: skip
    return loader.loader if to_uint8 else loader


class _Decoded:
    """A sample's picture through timm's transform; a class, so that workers can be started in any way."""

    def __init__(self) -> None:
        self.transform = transform(to_uint8=False)

    def __call__(self, payload: bytes) -> Any:
        return self.transform(opened(payload))


def webdataset_loader(urls: Sequence[str], workers: int) -> Any:
    """WebDataset with timm's transform, batched in the workers, as its documentation recommends."""
    dataset = (
        webdataset.WebDataset(list(urls), shardshuffle=False, empty_check=False)
        .to_tuple("jpg", "cls")
        .map_tuple(_Decoded(), int)
        .batched(BATCH)
    )
    return webdataset.WebLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=True)


def count_views(loader: Any) -> int:
    """One epoch."""
    return sum(len(batch[0]) for batch in loader)


LITDATA = (
    *("litdata", "lightning-utilities", "boto3", "botocore", "s3transfer", "jmespath", "python-dateutil", "six"),
    *("tifffile", "obstore", "filelock", "packaging", "requests", "urllib3", "certifi", "idna", "charset-normalizer"),
)


def litdata_loader(payloads: Sequence[bytes], workers: int, folder: Path) -> Any:
    """litdata with timm's transform, installed into a folder outside the project's environment. May raise anything."""
    target = folder / "packages"
    line = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), *LITDATA]
    try:
        subprocess.run(line, check=True, capture_output=True, text=True, timeout=180)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"pip: {(error.stderr.strip().splitlines() or ['failed'])[-1][:200]}") from error
    sys.path.append(str(target))  # last: what the project has stays the project's
    litdata = importlib.import_module("litdata")
    litdata.optimize(
        fn=_Item(payloads), inputs=list(range(len(payloads))), output_dir=str(folder / "chunks"), num_workers=1,
        chunk_bytes="8MB",
    )  # fmt: skip
    multiprocessing.set_start_method("fork", force=True)  # litdata sets another one for the whole process
    dataset = litdata.StreamingDataset(str(folder / "chunks"), shuffle=False, transform=_DecodedItem())
    return litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, persistent_workers=True)


class _DecodedItem:
    """The same for litdata's items."""

    def __init__(self) -> None:
        self.decoded = _Decoded()

    def __call__(self, item: dict[str, Any]) -> Any:
        return self.decoded(item["jpg"]), item["cls"]


class _Item:
    def __init__(self, payloads: Sequence[bytes]) -> None:
        self.payloads = payloads

    def __call__(self, number: int) -> dict[str, Any]:
        return {"jpg": self.payloads[number], "cls": number % 1000}
