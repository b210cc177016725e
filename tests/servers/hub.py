"""A server on loopback that speaks as much of the Hugging Face Hub's protocol as its client asks for.

Repositories are folders, ``<folder>/datasets/<owner>/<name>`` and ``<folder>/models/<owner>/<name>``, of one revision
``main``. Tars, and what was sent as a large file, are kept as the hub keeps large files: the listing gives their
SHA-256, and ``resolve`` sends the client on to another address. Listings come in pages. An absent repository is
answered by 401, as the hub answers to whoever is not logged in. With `Hub.xet` the client is offered tars by the hub's
other protocol, and takes it: it asks for a file's reconstruction, and for the chunks that are named in it.

Who has an account (`Hub.accounts`) can make repositories and write to them: the client asks how to send each file,
sends large ones (LFS), and commits.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
"""The commit of a repository that nobody has written to"""
RANGE = re.compile(r"bytes=(\d+)-(\d*)")
API = re.compile(
    r"/api/(datasets|models)/([^/]+/[^/]+)(?:/(tree|revision|preupload|commit|xet-read-token)/([^/]+)(?:/(.+))?)?"
)
LFS = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")
CHUNK, XET_TOKEN = 1 << 16, "for-chunks"
FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Hub:
    """The server, what it has been asked, and what goes wrong with some files."""

    folder: Path
    xet: bool = False
    page: int = 2
    """Entries of a listing's page"""
    cuts: dict[str, int] = field(default_factory=dict)
    """By name: how many transfers break off after half of what they should bring"""
    short: dict[str, int] = field(default_factory=dict)
    """By name: bytes that are missing although the server says that it is all"""
    statuses: dict[str, int] = field(default_factory=dict)
    """By name: an answer instead of the file"""
    listed_as: dict[str, bytes] = field(default_factory=dict)
    """By name: what the listing speaks of, where that is not what is there"""
    asked: list[str] = field(default_factory=list)
    """Method and path of each request"""
    parts: int = 0
    """Answers that were part of a file"""
    tokens: int = 0
    """Requests that carried credentials other than those that this server gave"""
    accounts: dict[str, str] = field(default_factory=dict)
    """By token: whose repositories it may write to"""
    large: set[Path] = field(default_factory=set)
    """Files that were sent as large ones"""
    most_sent: int | None = None
    """So many large files are taken, and then none"""
    most_commits: int | None = None
    """So many commits are taken, and then none"""
    sent: list[str] = field(default_factory=list)
    """SHA-256 of each large file that came"""
    commits: list[list[str]] = field(default_factory=list)
    """The files that each commit changed"""
    url: str = ""

    @property
    def head(self) -> str:
        """The newest commit, of whichever repository."""
        return f"c0ffee{len(self.commits):034d}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        owner = self.hub.accounts.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if owner is None:
            return self._refuse(401, "")
        if path == "/api/repos/create":
            return self._create(json.loads(body), owner)
        match = API.fullmatch(path) or LFS.fullmatch(path)
        if match is None:
            return self._refuse(404, "")
        kind, repo = match[1] or "models", match[2]
        if repo.partition("/")[0] != owner:
            return self._refuse(403, "")
        if path.endswith("/batch"):
            return self._batch(json.loads(body))
        return self._preupload(kind, repo, body) if match[3] == "preupload" else self._commit(kind, repo, body)

    def do_PUT(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        body, oid = self.rfile.read(int(self.headers.get("Content-Length", 0))), self.path.rpartition("/")[2]
        if self.hub.most_sent is not None and len(self.hub.sent) >= self.hub.most_sent:
            return self._refuse(403, "")
        assert hashlib.sha256(body).hexdigest() == oid, "other bytes came than were announced"
        self.hub.sent.append(oid)
        self._object(oid).parent.mkdir(exist_ok=True)
        self._object(oid).write_bytes(body)
        return self._send(200, b"", {})

    def _route(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        self.hub.tokens += self.headers.get("Authorization", f"Bearer {XET_TOKEN}") != f"Bearer {XET_TOKEN}"
        at = urlsplit(self.path)
        if match := API.fullmatch(at.path):
            self._api(match, parse_qs(at.query))
        elif match := FILE.fullmatch(at.path):
            self._file(match)
        elif at.path.startswith("/large/"):
            path = Path(unquote(at.path.removeprefix("/large/")))
            self._give(path.name, (self.hub.folder / path).read_bytes())
        elif at.path.startswith("/v1/reconstructions/"):
            self._reconstruction(at.path.rpartition("/")[2])
        elif at.path.startswith("/chunks/"):
            self._chunks(at.path.rpartition("/")[2])
        else:
            self._refuse(404, "")

    # ---- what there is

    def _api(self, match: re.Match[str], query: dict[str, list[str]]) -> None:
        kind, repo, what, revision, inside = match.groups()
        root = self.hub.folder / kind / repo
        if not root.is_dir():
            return self._refuse(401, "RepoNotFound")
        if revision not in (None, "main", COMMIT, self.hub.head):
            return self._refuse(404, "RevisionNotFound")
        if what == "xet-read-token":
            names = ("X-Xet-Cas-Url", "X-Xet-Access-Token", "X-Xet-Token-Expiration")
            return self._json(
                {}, dict(zip(names, (self.hub.url, XET_TOKEN, str(int(time.time()) + 3600)), strict=True))
            )
        if what != "tree":
            return self._json({"id": repo, "sha": self.hub.head, "private": False, "gated": False, "tags": []})
        folder = root / unquote(inside or "")
        if not folder.is_dir():
            return self._refuse(404, "EntryNotFound")
        deep = query.get("recursive", [""])[0].lower() == "true"
        entries = [self._entry(path, root) for path in sorted(folder.rglob("*") if deep else folder.iterdir())]
        begin = int(query.get("cursor", ["0"])[0])
        end = begin + self.hub.page
        more = {}
        if end < len(entries):
            at = urlsplit(self.path).path
            more["Link"] = f'<{self.hub.url}{at}?recursive={deep}&expand=False&cursor={end}>; rel="next"'
        return self._json(entries[begin:end], more)

    def _entry(self, path: Path, root: Path) -> dict[str, Any]:
        name = str(path.relative_to(root))
        if path.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        data = self.hub.listed_as.get(path.name, path.read_bytes())
        entry: dict[str, Any] = {"type": "file", "oid": _blob(data), "size": len(data), "path": name}
        if self._is_large(path):
            digest = hashlib.sha256(data).hexdigest()
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(data)}\n".encode()
            entry |= {"oid": _blob(pointer), "lfs": {"oid": digest, "size": len(data), "pointerSize": len(pointer)}}
            entry |= {"xetHash": _xet_hash(path.name)} if self.hub.xet else {}
        return entry

    def _is_large(self, path: Path) -> bool:
        return path.suffix == ".tar" or path in self.hub.large

    # ---- what is sent

    def _object(self, oid: str) -> Path:
        return self.hub.folder / "objects" / oid

    def _create(self, asked: dict[str, Any], owner: str) -> None:
        if asked["organization"] != owner:
            return self._refuse(403, "")
        repo = f"{owner}/{asked['name']}"
        root = self.hub.folder / f"{asked.get('type', 'model')}s" / repo
        there = root.is_dir()
        root.mkdir(parents=True, exist_ok=True)
        prefix = "datasets/" if asked.get("type") == "dataset" else ""
        return self._json({"url": f"{self.hub.url}/{prefix}{repo}"}, status=409 if there else 200)

    def _preupload(self, kind: str, repo: str, body: bytes) -> None:
        """Text goes with the commit; the hub looks at the beginning of a file, as we do."""
        answers = []
        for file in json.loads(body)["files"]:
            try:
                base64.b64decode(file["sample"]).decode()
                mode = "regular"
            except UnicodeDecodeError:
                mode = "lfs"
            path = self.hub.folder / kind / repo / file["path"]
            known = self._entry(path, path.parent) if path.is_file() else {}
            oid = known.get("lfs", known).get("oid")
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return self._json({"files": answers})

    def _batch(self, asked: dict[str, Any]) -> None:
        """Where to send each object; nowhere, if it is here already."""
        objects = []
        for each in asked["objects"]:
            to = {"actions": {"upload": {"href": f"{self.hub.url}/objects/{each['oid']}"}}}
            objects.append({**each, **({} if self._object(each["oid"]).exists() else to)})
        return self._json({"transfer": "basic", "objects": objects})

    def _commit(self, kind: str, repo: str, body: bytes) -> None:
        """All of it or nothing."""
        if self.hub.most_commits is not None and len(self.hub.commits) >= self.hub.most_commits:
            return self._refuse(403, "")
        root, changed = self.hub.folder / kind / repo, []
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                continue
            path = root / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            self.hub.large.discard(path)
            if line["key"] == "file":
                path.write_bytes(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                path.write_bytes(self._object(value["oid"]).read_bytes())
                self.hub.large.add(path)
            else:
                path.unlink()
                with contextlib.suppress(OSError):  # no folder is empty there
                    path.parent.rmdir()
            changed.append(value["path"])
        self.hub.commits.append(changed)
        return self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{self.hub.head}", "commitOid": self.hub.head})

    # ---- files

    def _file(self, match: re.Match[str]) -> None:
        kind, repo, revision, inside = match[1] or "models", match[2], match[3], unquote(match[4])
        path = Path(kind) / repo / inside
        if not (self.hub.folder / kind / repo).is_dir():
            return self._refuse(401, "RepoNotFound")
        if revision not in ("main", COMMIT, self.hub.head) or not (self.hub.folder / path).is_file():
            return self._refuse(404, "EntryNotFound")
        if path.name in self.hub.statuses:
            return self._refuse(self.hub.statuses[path.name], "")
        if not self._is_large(self.hub.folder / path):
            return self._give(path.name, (self.hub.folder / path).read_bytes())
        digest = hashlib.sha256((self.hub.folder / path).read_bytes()).hexdigest()
        head = {
            "Location": f"/large/{quote(str(path))}",
            "X-Linked-ETag": f'"{digest}"',
            "X-Repo-Commit": self.hub.head,
        }
        return self._send(302, b"", head)

    # ---- Xet

    def _reconstruction(self, file: str) -> None:
        """All chunks of the file, as one object."""
        path = self._by_hash(file)
        size = path.stat().st_size
        chunks = {"start": 0, "end": -(-size // CHUNK)}
        inside = {"start": 0, "end": len(_chunked(path.read_bytes())) - 1}
        terms = [{"hash": file, "unpacked_length": size, "range": chunks}]
        where = {"range": chunks, "url": f"{self.hub.url}/chunks/{file}", "url_range": inside}
        self._json({"offset_into_first_range": 0, "terms": terms, "fetch_info": {file: [where]}})

    def _chunks(self, file: str) -> None:
        path = self._by_hash(file)
        if path.name in self.hub.statuses:
            return self._refuse(self.hub.statuses[path.name], "")
        return self._give(path.name, _chunked(path.read_bytes()))

    def _by_hash(self, file: str) -> Path:
        return next(path for path in self.hub.folder.rglob("*.tar") if _xet_hash(path.name) == file)

    # ---- answers

    def _give(self, name: str, data: bytes) -> None:
        data = data[: len(data) - self.hub.short.get(name, 0)]
        status, head = 200, {"ETag": f'"{_blob(data)}"', "X-Repo-Commit": self.hub.head, "Accept-Ranges": "bytes"}
        if match := RANGE.fullmatch(self.headers.get("Range", "")):
            first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
            if first >= len(data):
                return self._refuse(416, "")
            status, head["Content-Range"] = 206, f"bytes {first}-{last}/{len(data)}"
            data = data[first : last + 1]
            self.hub.parts += 1
        if self.hub.cuts.get(name, 0) and self.command == "GET":
            self.hub.cuts[name] -= 1
            self.close_connection = True
            return self._send(status, data[: len(data) // 2], head, length=len(data))
        return self._send(status, data, head)

    def _json(self, value: object, head: dict[str, str] | None = None, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(head or {})})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code} if code else {})

    def _send(self, status: int, data: bytes, head: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in head.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _blob(data: bytes) -> str:
    """What git calls these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _xet_hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _chunked(data: bytes) -> bytes:
    """Each chunk with a head: version, length as it is stored, how it is compressed (not at all), its own length."""
    parts = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    return b"".join(b"\0%b\0%b%b" % (length := len(part).to_bytes(3, "little"), length, part) for part in parts)


@contextlib.contextmanager
def hub_server(folder: Path) -> Iterator[Hub]:
    """The server while the context lasts."""
    hub = Hub(folder)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
