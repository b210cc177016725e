"""Whatever decides pixels is in the decoder's name."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

import pytest
from PIL import features

from pipeline.picture_cache import decoder as module
from pipeline.picture_cache.decoder import decoder
from pipeline.pictures import images


def test_every_module_of_the_room_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed letter in any of them is another decoder."""
    room = tmp_path / "pictures"
    shutil.copytree(Path(images.__file__).parent, room)
    known = {decoder()}
    monkeypatch.setattr(module, "ROOM", room)
    module.decoder.cache_clear()
    assert known == {decoder()}
    for path in sorted(room.glob("*.py")):
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        module.decoder.cache_clear()
        known.add(decoder())
    module.decoder.cache_clear()
    assert len(known) == 1 + len(list(room.glob("*.py"))) > 5


@pytest.mark.parametrize("place", [metadata, features])
def test_versions_are_in_it(monkeypatch: pytest.MonkeyPatch, place: object) -> None:
    before = decoder()
    module.decoder.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(place, "version", lambda name: f"another {name}")
        assert decoder() != before
    module.decoder.cache_clear()
    assert decoder() == before and len(before) == 8
