"""Two nodes with a cable between them, which can be cut: network namespaces, where they can be made."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
NETWORK = "10.231.77"


@dataclass(frozen=True, slots=True)
class Cable:
    """What lies between two nodes."""

    nodes: tuple[str, str]
    """The names of their namespaces"""

    def address(self, node: int) -> str:
        """Where the other finds it."""
        return f"{NETWORK}.{node + 1}"

    def env(self, node: int) -> dict[str, object]:
        """What `tests.many_ranks.start` and gloo must know to be on that node."""
        return {"NETNS": self.nodes[node], "GLOO_SOCKET_IFNAME": "cable"}

    def cut(self) -> None:
        """From here on packets vanish, and nobody is told."""
        assert _ip("-n", self.nodes[1], "link", "set", "cable", "down").returncode == 0

    def mend(self) -> None:
        """Put it back."""
        assert _ip("-n", self.nodes[1], "link", "set", "cable", "up").returncode == 0


@contextlib.contextmanager
def cabled() -> Iterator[Cable]:
    """Two nodes and their cable while the context lasts, or a skipped test with the reason."""
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` command: network namespaces cannot be made")
    cable = Cable((f"distill-{os.getpid()}-a", f"distill-{os.getpid()}-b"))
    try:
        for name in cable.nodes:
            _make("netns", "add", name)
        one, other = cable.nodes
        _make("link", "add", "cable", "netns", one, "type", "veth", "peer", "name", "cable", "netns", other)
        for node, name in enumerate(cable.nodes):
            _make("-n", name, "addr", "add", f"{cable.address(node)}/24", "dev", "cable")
            _make("-n", name, "link", "set", "cable", "up")
            _make("-n", name, "link", "set", "lo", "up")
        yield cable
    finally:
        for name in cable.nodes:
            _ip("netns", "del", name)


def enter(node: str) -> None:
    """Go to a node, with all that comes after."""
    with Path(f"/var/run/netns/{node}").open() as file:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {node}")


def _make(*words: str) -> None:
    made = _ip(*words)
    if made.returncode:
        pytest.skip(f"network namespaces cannot be made here: ip {' '.join(words)}: {made.stderr.strip()}")


def _ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
