"""Can a model's published weights be had here: are they kept already, or does the hub answer?

The hub's own client asks an address that does not answer six times for each file that it knows, over 25 s, and says so
each time. So it is asked once before, briefly, and through the client's own session (which knows of proxies); whatever
it answers, the client then does its work as always. Weights that are kept need no answer.
"""

from __future__ import annotations

import os
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from timm.models import get_pretrained_cfg

from pipeline.errors import first_line

ANSWER_S = 3.0
"""How long the hub may take to say anything at all; HF_HUB_ETAG_TIMEOUT sets it, as for the client."""
FILES = ("model.safetensors", "pytorch_model.bin")
"""Where timm keeps weights, best first."""
PREFIXES = ("hf-hub:", "hf_hub:")
"""How timm is told of a model on the hub that is none of its own."""


class SilentHubError(ConnectionError):
    """The hub does not answer, and what is wanted from it is not kept here."""


def require_hub(name: str) -> None:
    """Refuse a model whose weights lie on the hub and nowhere else, where the hub does not answer."""
    where = _on_the_hub(name)
    if where is None or constants.HF_HUB_OFFLINE or _is_kept(*where):
        return
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_patience())
    except Exception as error:  # of whichever library carries the client's requests
        raise SilentHubError(f"{constants.ENDPOINT} does not answer ({first_line(error, None)})") from error


def _on_the_hub(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The repository with the weights of timm's model of that name, and which of its files they may be."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix), FILES
    config: Any = get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id or config.file or os.environ.get("TIMM_USE_OLD_CACHE", "0") != "0":
        return None
    return config.hf_hub_id, (config.hf_hub_filename,) if config.hf_hub_filename else FILES


def _is_kept(repository: str, files: tuple[str, ...]) -> bool:
    repository, _, revision = repository.partition("@")
    kept = (huggingface_hub.try_to_load_from_cache(repository, file, revision=revision or None) for file in files)
    return any(isinstance(path, str) for path in kept)


def _patience() -> float:
    return float(constants.HF_HUB_ETAG_TIMEOUT) if os.environ.get("HF_HUB_ETAG_TIMEOUT") else ANSWER_S
