"""A server in front of a server: it passes bytes on, or cuts, shortens, delays and refuses, as it is told."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Protocol


class Fault(Protocol):
    """What happens to the nth connection."""

    def __call__(self, number: int) -> str:
        """One of pass, refuse, cut (in the middle of an answer), stall, error (status 503)."""
        ...


class Proxy:
    """A TCP proxy on loopback that treats each connection as `fault` says."""

    def __init__(self, port: int, fault: Fault, *, cut_at: int = 3000) -> None:
        self.target, self.fault, self.cut_at = port, fault, cut_at
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._over.set()
        self._listener.close()

    def _accept(self) -> None:
        for number in itertools.count():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections = number + 1
            threading.Thread(target=self._serve, args=(client, self.fault(number)), daemon=True).start()

    def _serve(self, client: socket.socket, fault: str) -> None:
        with contextlib.suppress(OSError), client:
            if fault == "refuse":
                return
            if fault == "error":
                client.recv(65536)
                client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", self.target)) as server:
                threading.Thread(target=_pump, args=(client, server, None), daemon=True).start()
                left = self.cut_at if fault in ("cut", "stall") else None
                _pump(server, client, left)
                if fault == "stall":
                    self._over.wait(60)
                for end in (client, server):  # the other thread still reads: closing alone would tell nobody
                    end.shutdown(socket.SHUT_RDWR)


def _pump(source: socket.socket, target: socket.socket, left: int | None) -> None:
    """Pass bytes on until there are no more, or no more are `left`."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if left is not None and len(data) >= left:
                target.sendall(data[:left])
                return
            target.sendall(data)
            left = None if left is None else left - len(data)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def proxy(port: int, fault: Callable[[int], str], *, cut_at: int = 3000) -> Iterator[Proxy]:
    """A proxy while the context lasts."""
    made = Proxy(port, fault, cut_at=cut_at)
    try:
        yield made
    finally:
        made.close()
