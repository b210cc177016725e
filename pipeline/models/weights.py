"""What is in a weights file, which tensors are they exactly, and do they all belong to this model?

Files are data: safetensors, or a checkpoint read with ``weights_only=True``, which executes nothing. A tensor is as
many numbers as lie in the file, and nothing that only stands for more of them (docs/decisions/0131). Loading is strict:
no tensor may be missing, left over, or of another shape. Only the counters of batch norms may be absent, as in files
older than these: they count training steps, and no answer depends on them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.errors import WeightsError, first_line

COUNTER = "num_batches_tracked"
STATES = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where checkpoints of others keep their weights; as in timm, a moving average goes before what it is of."""

DTYPES = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
"""Of the tensors that are read"""

log = logging.getLogger(__name__)


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of all tensors, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a checkpoint; a checkpoint is read as data and never executed."""
    if path.is_dir():
        raise WeightsError(f"{path} is a folder. Name a file in it, or a teacher's folder by --model local-dir:{path}.")
    if not path.is_file():
        raise WeightsError(f"{path}: no such file.")
    try:
        if path.suffix == ".safetensors":
            found: Any = dict(safetensors.torch.load_file(path))
            require_plain(found, path, path.stat().st_size)
            return cast(dict[str, Tensor], found)
        with path.open("rb") as file:
            found = load_as_data(file, path)
    except WeightsError:
        raise
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is not a sound safetensors file: {error}.") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} cannot be read as tensors: it is no file of torch's, or holds more than tensors. "
            "Files that would run code are refused; convert it to safetensors where it was made."
        ) from error
    except Exception as error:  # torch.load raises a dozen kinds for a damaged or hostile file
        raise WeightsError(
            f"{path} cannot be read as tensors: {first_line(error)} "
            "Files that would run code are refused; convert it to safetensors where it was made."
        ) from error
    held = [key for key in STATES if isinstance(found, dict) and isinstance(found.get(key), dict)]
    if len(held) > 1:
        log.info("%s holds %s; %s is taken", path, " and ".join(held), held[0])
    found = found[held[0]] if held else found
    named = isinstance(found, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())
    if not named or not found:
        keys = f"Its keys: {', '.join(map(str, list(found)[:8]))}. " if isinstance(found, dict) and found else ""
        raise WeightsError(
            f"{path} holds no state dict (names → tensors), bare or under {', '.join(STATES)}. {keys}Save the "
            "state dict alone, or under one of these."
        )
    return {name.removeprefix("module."): tensor for name, tensor in found.items()}


def load_as_data(file: BinaryIO, path: Path) -> Any:
    """What `torch.save` wrote, of plain values and tensors that take no more memory than the file has bytes.

    All of it from one open file: under its name there may be another in a moment.
    """
    size = os.fstat(file.fileno()).st_size
    require_uncompressed(file, path, size)
    file.seek(0)
    found = torch.load(file, map_location="cpu", weights_only=True)
    require_plain(found, path, size)
    return found


def require_plain(found: object, path: Path, size: int) -> None:
    """Refuse tensors, anywhere in what was read from `size` bytes, that are not as many numbers as they seem to be."""
    storages: dict[int, int] = {}
    seen: set[int] = set()
    left: list[tuple[str, object]] = [("", found)]
    while left:  # no recursion, and nothing twice: what was read may be nested for ever, or hold itself
        name, value = left.pop()
        if isinstance(value, Tensor):
            if odd := _oddity(value):
                raise WeightsError(
                    f"{path}: tensor {name!r} {odd}. Only plain tensors are read: save it again where it was made, as "
                    "tensor.to_dense().contiguous().clone()."
                )
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            left += [(f"{name}.{key}" if name else str(key), item) for key, item in inner]
    if (total := sum(storages.values())) > size:
        raise WeightsError(
            f"{path} has {size:,} bytes, and its tensors {total:,}: it was not written by torch.save. "
            "Save it again where it was made."
        )


def _oddity(tensor: Tensor) -> str | None:
    """What is odd about a tensor, in words that follow its name."""
    if tensor.device.type != "cpu":
        return f"is on the {tensor.device.type} device, which holds no numbers here"
    if tensor.is_quantized:
        return f"is quantised ({tensor.dtype})"
    if tensor.is_sparse or tensor.layout is not torch.strided or tensor.is_nested:
        return f"is sparse or nested ({tensor.layout})"
    if tensor.is_complex():
        return f"is complex ({tensor.dtype})"
    if tensor.dtype not in DTYPES:
        return f"is of the type {tensor.dtype}"
    held, needed = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
    if needed > held:
        return f"is expanded: of shape {tuple(tensor.shape)}, which is {needed:,} bytes, and the file holds {held:,}"
    return None


def require_uncompressed(file: BinaryIO, path: Path, size: int) -> None:
    """Refuse a checkpoint that inflates when it is read: torch stores what it writes as it is, each thing once."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise WeightsError(
            f"{path}: {packed[0].filename!r} is compressed, from {packed[0].file_size:,} bytes to "
            f"{packed[0].compress_size:,}, and torch.save compresses nothing. Save it again where it was made."
        )
    if (total := sum(entry.file_size for entry in entries)) > size:
        raise WeightsError(
            f"{path} has {size:,} bytes, and what it holds {total:,}: it inflates, or parts of it "
            "overlap. torch.save writes neither; save it again where it was made."
        )


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load every tensor, or say which are missing, unknown, or of another shape."""
    own = model.state_dict()
    state = {**{name: value for name, value in own.items() if name.rpartition(".")[2] == COUNTER}, **state}
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [n for n in sorted(own.keys() & state.keys()) if own[n].shape != state[n].shape]
    for what, names in (("misses", missing), ("has unknown tensors:", unknown)):
        if names:
            raise WeightsError(
                f"{where} {what} {', '.join(names[:3])}{' …' if len(names) > 3 else ''} ({len(names)} of {len(own)}): "
                "it belongs to another architecture. Check the model's name against the file."
            )
    if shapes:
        name = shapes[0]
        raise WeightsError(
            f"{where}: {name} has shape {tuple(state[name].shape)}, the model {tuple(own[name].shape)} "
            f"({len(shapes)} tensors differ). Check the model's name against the file."
        )
    model.load_state_dict(state)


def load_moments(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], where: str) -> None:
    """Load what an optimiser remembers of each weight, or say that it is of other weights."""
    try:
        optimizer.load_state_dict(dict(state))
        kept = [(weight, optimizer.state[weight]) for group in optimizer.param_groups for weight in group["params"]]
        tensors = [(weight, v) for weight, values in kept for v in values.values() if isinstance(v, Tensor)]
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        raise WeightsError(
            f"{where}: its optimiser cannot be read: {str(error)[:200] or type(error).__name__}."
        ) from error
    other = [v for weight, v in tensors if v.numel() > 1 and v.shape != weight.shape and v.ndim >= weight.ndim]
    if other:
        raise WeightsError(f"{where}: its optimiser is of other weights (a moment has shape {tuple(other[0].shape)}).")
