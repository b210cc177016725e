"""A real web server on loopback that gives files: with ranges or without, over TLS too, and with answers to order."""

from __future__ import annotations

import contextlib
import http.server
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Web:
    """A web server, what it has been asked, and what it says to some of it."""

    folder: Path
    ranges: bool = True
    """Whether it gives parts of files; one that does not gives the whole"""
    answers: dict[str, int] = field(default_factory=dict)
    """Paths that are answered with a status and nothing else"""
    asked: list[str] = field(default_factory=list)
    """Method and path of each request"""
    parts: int = 0
    """Requests that were answered with a part"""
    url: str = ""

    @property
    def names(self) -> list[str]:
        """The last part of each path that was asked for by GET."""
        return [line.rpartition("/")[2] for line in self.asked if line.startswith("GET")]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.web.asked.append(f"{self.command} {self.path}")
        file = self.web.folder / path.lstrip("/")
        status = self.web.answers.get(path, 200 if file.is_file() else 404)
        data = file.read_bytes() if status == 200 else b""
        match = RANGE.fullmatch(self.headers.get("Range", "")) if self.web.ranges else None
        self.send_response(206 if match and status == 200 else status)
        if match and status == 200:
            first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            data = data[first : last + 1]
            self.web.parts += 1
        if self.web.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if file.is_file():
            self.send_header("Last-Modified", self.date_time_string(file.stat().st_mtime))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def web_server(folder: Path, *, ranges: bool = True, certificate: Path | None = None) -> Iterator[Web]:
    """The server while the context lasts; with the certificate (and key, in one file) it speaks TLS."""
    web = Web(folder, ranges)
    handler = type("Handler", (_Handler,), {"web": web})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        web.url = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield web
        finally:
            server.shutdown()


def certificate_for_loopback(path: Path) -> Path:
    """A certificate that nobody has signed but itself, and its key, in one file."""
    key = path.with_suffix(".key")
    line = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    line += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(path)]
    subprocess.run(line, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path
