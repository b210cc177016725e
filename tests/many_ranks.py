"""Several processes as a launcher would start them; forked from here, as a fresh interpreter imports for seconds."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from pipeline.durable.objects import Objects
from tests.faults import Calls
from tests.network import enter

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass
class Rank:
    """A process and what it says."""

    process: BaseProcess
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)

    def wait(self, seconds: float = 180) -> int:
        """Its exit code; an error, and its end, where it takes longer."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {seconds} s:\n{self.said}")
        return self.process.exitcode


def start(
    command: click.Command,
    arguments: Sequence[object],
    env: Mapping[str, object],
    log: Path,
    *,
    killed_at: int | None = None,
) -> Rank:
    """One process that runs the command in this environment; it dies of its nth call that changes the disk."""
    texts = [str(argument) for argument in arguments]
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_run, args=(command, texts, {k: str(v) for k, v in env.items()}, log, killed_at))
    process.start()
    return Rank(process, log)


@dataclass
class Hold:
    """Processes that start while it is on wait before their nth receipt, so that no kill or cut comes too late."""

    folder: Path

    def on(self, patch: pytest.MonkeyPatch, objects: type[Any], after: int = 0) -> None:
        """From here on; `after` receipts of each process pass."""
        original, passed = objects.put_new, []

        def put_new(objects: Objects, key: str, data: bytes) -> bool:
            passed.append(key)
            if len(passed) > after:
                (self.folder / f"held-{os.getpid()}").touch()
                eventually((self.folder / "released").exists, 600)
            return bool(original(objects, key, data))

        patch.setattr(objects, "put_new", put_new)

    def wait_for(self, *ranks: Rank) -> None:
        """Until these processes are held; one that ends before says why."""

        def held() -> bool:
            assert all(rank.process.exitcode is None for rank in ranks), [rank.said for rank in ranks]
            return all((self.folder / f"held-{rank.process.pid}").exists() for rank in ranks)

        eventually(held)

    def release(self) -> None:
        """Let all go on, and hold nobody any more."""
        (self.folder / "released").touch()


def meeting(world: int, port: int | None = None) -> list[dict[str, object]]:
    """The environments of ranks that meet at rank 0's."""
    at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port or free_port(), "WORLD_SIZE": world}
    return [{**at, "RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world} for rank in range(world)]


def free_port() -> int:
    """A port that nobody listens at, and that no outgoing connection is given until somebody does."""
    while True:
        port = 12000 + secrets.randbelow(_first_outgoing() - 12000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("", port))
            return port


def _first_outgoing() -> int:
    """The system gives outgoing connections ports from here on."""
    place = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(place.read_text().split()[0]) if place.exists() else 0
    return first if first > 13000 else 32768


def eventually(true: Callable[[], bool], seconds: float = 180) -> None:
    """Wait until it is."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def _run(command: click.Command, arguments: list[str], env: dict[str, str], log: Path, killed_at: int | None) -> None:
    with Calls(killed_at, kill=True).active() if killed_at is not None else contextlib.nullcontext():
        code = run_here(command, arguments, env, log)
    os._exit(code)


def run_here(command: click.Command, arguments: list[str], env: dict[str, str], log: Path) -> int:
    """Run the command in this process and environment, and give its exit code."""
    torch.set_num_threads(1)
    for name in list(os.environ):
        if name in LAUNCHER or name.startswith(("SLURM_", "TORCHELASTIC_")):
            del os.environ[name]
    os.environ.update(env)
    if namespace := os.environ.pop("NETNS", ""):
        enter(namespace)
    with (
        log.open("a", encoding="utf-8") as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):
        code = 0
        try:
            command.main(arguments, prog_name="test", standalone_mode=True)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        return code
