"""Commands over tiled and plain shards, in this process."""

from __future__ import annotations

from pathlib import Path

import torch
from click.testing import CliRunner

from student.checkpoints import checkpoint

ROWS, NET = 40, "test_resnet"


def run(main: object, *words: object, expect: int = 0) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])  # type: ignore[arg-type]
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expect, result.output
    return result.output


def objects(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(out)["model"]
