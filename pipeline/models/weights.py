"""What is in a weights file, which tensors are they exactly, and do they all belong to this model?

Files are data: safetensors, or a checkpoint read with ``weights_only=True``, which executes nothing. Loading is strict:
no tensor may be missing, left over, or of another shape. Only the counters of batch norms may be absent, as in files
older than these: they count training steps, and no answer depends on them.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.errors import WeightsError

COUNTER = "num_batches_tracked"
STATES = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where checkpoints of others keep their weights; as in timm, a moving average goes before what it is of."""

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
            return dict(safetensors.torch.load_file(path))
        require_uncompressed(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
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
            f"{path} cannot be read as tensors: {(str(error) or type(error).__name__).splitlines()[0][:200]} "
            "Files that would run code are refused; convert it to safetensors where it was made."
        ) from error
    held = [key for key in STATES if isinstance(found, dict) and isinstance(found.get(key), dict)]
    if len(held) > 1:
        log.info("%s holds %s; %s is taken", path, " and ".join(held), held[0])
    found = found[held[0]] if held else found
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()) or not found:
        raise WeightsError(f"{path} holds no state dict (names → tensors).")
    return {name.removeprefix("module."): tensor for name, tensor in found.items()}


def require_uncompressed(path: Path) -> None:
    """Refuse a checkpoint that inflates when it is read: torch stores what it writes as it is."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        packed = [entry for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise WeightsError(
            f"{path}: {packed[0].filename!r} is compressed, from {packed[0].file_size:,} bytes to "
            f"{packed[0].compress_size:,}, and torch.save compresses nothing. Save it again where it was made."
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
