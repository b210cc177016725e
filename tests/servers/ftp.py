"""A small FTP server on loopback that gives files: enough of the protocol for Python's own client."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Ftp:
    """What it has, what it was asked, and how it fails."""

    folder: Path
    password: str | None = None
    cut: int = 0
    """So many transfers end in the middle"""
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        login = f"user:{self.password}@" if self.password else ""
        return f"ftp://{login}127.0.0.1:{self.port}"


class _Talk:
    """One control connection."""

    def __init__(self, ftp: Ftp, control: socket.socket) -> None:
        self.ftp, self.control, self.rest = ftp, control, 0
        self.listener: socket.socket | None = None

    def serve(self) -> None:
        with contextlib.suppress(OSError), self.control, self.control.makefile("r", encoding="utf-8") as lines:
            self.say("220 ready")
            for line in lines:
                word, _, rest = line.strip().partition(" ")
                self.ftp.asked.append(f"{word} {rest}".strip())
                getattr(self, f"do_{word.lower()}", self.unknown)(rest)
                if word == "QUIT":
                    return

    def say(self, text: str) -> None:
        self.control.sendall(f"{text}\r\n".encode())

    def unknown(self, _: str) -> None:
        self.say("502 no such command")

    def do_user(self, _: str) -> None:
        self.say("331 password" if self.ftp.password else "230 welcome")

    def do_pass(self, given: str) -> None:
        self.say("230 welcome" if given == self.ftp.password else "530 who are you?")

    def do_type(self, _: str) -> None:
        self.say("200 ok")

    def do_quit(self, _: str) -> None:
        self.say("221 bye")

    def do_rest(self, offset: str) -> None:
        self.rest = int(offset)
        self.say("350 go on")

    def do_pasv(self, _: str) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        high, low = divmod(self.listener.getsockname()[1], 256)
        self.say(f"227 at (127,0,0,1,{high},{low})")

    def do_mlsd(self, path: str) -> None:
        found = sorted((self.ftp.folder / path.strip("/")).iterdir())
        kinds = [(f"type={_kind(p)};size={p.stat().st_size};modify={p.stat().st_mtime_ns};", p.name) for p in found]
        self.give("".join(f"{facts} {name}\r\n" for facts, name in kinds).encode())

    def do_retr(self, path: str) -> None:
        file = self.ftp.folder / path.strip("/")
        if not file.is_file():
            self.say("550 no such file")
            return
        data, self.rest = file.read_bytes()[self.rest :], 0
        self.ftp.cut -= 1
        self.give(data[: len(data) // 2] if self.ftp.cut >= 0 else data)

    def give(self, data: bytes) -> None:
        assert self.listener is not None
        self.say("150 here it comes")
        with self.listener, self.listener.accept()[0] as connection, contextlib.suppress(OSError):
            connection.sendall(data)
        self.say("226 that was it")


def _kind(path: Path) -> str:
    return "dir" if path.is_dir() else "file"


@contextlib.contextmanager
def ftp_server(folder: Path, password: str | None = None) -> Iterator[Ftp]:
    """The server while the context lasts."""
    ftp = Ftp(folder, password)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ftp.port = listener.getsockname()[1]

        def accept() -> None:
            while True:
                try:
                    control, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_Talk(ftp, control).serve, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield ftp
        listener.shutdown(socket.SHUT_RDWR)
