"""A real browser without a screen, driven through its own pipe: Chromium or Chrome, where there is one.

It speaks the DevTools protocol: JSON messages, each ended by a zero byte, from file 3 to file 4 of the browser. No
package is needed for it, and no port is opened.
"""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars")
FLAGS += (
    "--disable-background-networking",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)
PATIENCE = 180.0
"""Seconds until a browser that does not answer is given up"""


def found() -> str | None:
    """The browser of this machine."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One page, and all that the browser said of it."""

    def __init__(self, reads: int, writes: int) -> None:
        self._in, self._out, self._left = reads, writes, b""
        self._numbers, self._session = itertools.count(1), {}
        self.events: list[dict[str, Any]] = []
        (target,) = [t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page"][:1]
        attached = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setFocusEmulationEnabled", enabled=True)

    def ask(self, method: str, **how: Any) -> dict[str, Any]:
        """The answer to one command; events that come meanwhile are kept."""
        number = next(self._numbers)
        text = json.dumps({"id": number, "method": method, "params": how, **self._session})
        os.write(self._out, text.encode() + b"\0")
        while (found := self._message()).get("id") != number:
            self.events.append(found)
        assert "error" not in found, (method, found)
        return dict(found["result"])

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            assert select.select([self._in], [], [], PATIENCE)[0], "the browser says nothing"
            data = os.read(self._in, 1 << 16)
            assert data, "the browser has ended"
            self._left += data
        message, _, self._left = self._left.partition(b"\0")
        return dict(json.loads(message))

    def open(self, page: Path) -> None:
        """Show a file, wait until it is loaded."""
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())

    def look(self, *, width: int, scheme: str = "light", media: str = "", height: int = 900) -> None:
        """The size of the window, the reader's colours, and whether it is printed."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", media=media, features=features)

    def run(self, script: str) -> Any:
        """What a script of the page returns."""
        found = self.ask("Runtime.evaluate", expression=f"(() => {{{script}}})()", returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, box: Mapping[str, float]) -> NDArray[np.uint8]:
        """The pixels of a part of the page: x, y, width and height."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip={**box, "scale": 1})
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB"))

    def press(self, key: str, code: int, text: str = "") -> None:
        """One key, down and up."""
        for kind in ("keyDown", "keyUp"):
            how = {"text": text} if text and kind == "keyDown" else {}
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **how)


@contextlib.contextmanager
def tab(browser: str) -> Iterator[Tab]:
    """A browser with a profile of its own, which ends with the block."""
    to_read, to_write = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_read[0]} 4>&{to_write[1]}', "bash", browser, *FLAGS,
             f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read[0], to_write[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read[0])
        os.close(to_write[1])
        try:
            yield Tab(to_write[0], to_read[1])
        finally:
            process.kill()
            process.wait()
            os.close(to_write[0])
            os.close(to_read[1])
