"""Does a student that draws anything else than the teacher saw stop in its first batch, and say at which view?

The mistakes that were made elsewhere, and each field of the recipe: what the student draws is made wrong in one way,
everything else is as it is in a run. It must stop before the first step with the row, the view, the key and the shard.
For every field of the recipe it is also held that a store labelled under another value is refused with both.

The mistakes are made in a store of checksums with sketches, and in one of thumbnails; and once more where drift is
accepted. Then what looks otherwise must be stopped all the same, and what is as good as a drift must pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import MismatchError, RecipeError, ShardError, UserError, ViewError
from pipeline.labelling.writers import open_to_label
from pipeline.proofs.checksums import checksum, luma
from pipeline.proofs.proof import SKETCH, Luma
from pipeline.rendering.loader import Loader
from pipeline.rendering.renderer import Rendered, Renderer
from pipeline.shards.index import SampleIndex
from pipeline.store.reader import StoreReader
from pipeline.views.recipe import VERSION, Recipe
from student.feed.feed import Feed, piece_capacity
from student.feed.stored_answers import StoredAnswers, needed
from student.learning.settings import Settings
from student.ranks.ranks import Ranks
from student.run.launch import require_fit, views_of
from tests.campaign.tally import Scale, Tally
from tests.pictures import encoded, scene, tiny_shards
from tests.small_students import RECIPE, make_store

TITLE = "misalignments (row, view, shard, seed, crop, flip, channel order, filter, recipe field by field)"
SHOWS = "all stopped in the first batch, named; accepted drift passes"

Pixels = NDArray[np.uint8]
Rows = NDArray[np.int64]
PLAIN = Recipe.preset("light", image_size=32, mix_window=8)
JITTERED = dataclasses.replace(RECIPE, randaugment="", color_jitter=0.4)
CENTERED = Recipe.preset("none", image_size=32, mix_window=8, crop_pct=0.8)

FIELDS: dict[str, tuple[Recipe, object]] = {
    "seed": (RECIPE, 1),
    "crop": (RECIPE, "center"),
    "crop_scale": (RECIPE, (0.3, 1.0)),
    "crop_ratio": (RECIPE, (1.0, 1.0)),
    "crop_pct": (CENTERED, 0.9),
    "flip": (RECIPE, 0.0),
    "randaugment": (RECIPE, "rand-m5-mstd0.5-inc1"),
    "three_augment": (JITTERED, True),
    "color_jitter": (JITTERED, 0.1),
    "erase": (RECIPE, 0.9),
    "mixup": (RECIPE, 0.2),
    "cutmix": (RECIPE, 0.0),
    "mix_prob": (RECIPE, 0.0),
    "mix_switch": (RECIPE, 1.0),
    "mix_window": (RECIPE, 16),
    "interpolation": (RECIPE, "bilinear"),
}
"""Another value of each field that decides pixels, and a recipe in which it does."""

FIXED: dict[str, object] = {"decoder": "pillow", "version": VERSION + 1}
"""Fields with a single value so far: any other is refused by name."""


Mistake = Callable[["Wrong", Rows, Rows, Pixels], None]


class Wrong(Renderer):
    """A renderer that makes one mistake."""

    def __init__(self, store: StoreReader, mistake: Mistake) -> None:
        super().__init__(store.manifest.recipe, store.index, store.index.files())
        self.mistake = mistake

    def render(self, row_B: Rows, view_B: Rows, out_BHWC: Pixels) -> Rendered:
        self.mistake(self, row_B, view_B, out_BHWC)
        crcs, lumas = [checksum(image) for image in out_BHWC], [luma(image) for image in out_BHWC]
        return Rendered(np.array(crcs, np.uint32), np.array(lumas, np.uint8))

    def rightly(self, row_B: Rows, view_B: Rows, out_BHWC: Pixels) -> None:
        super().render(row_B, view_B, out_BHWC)


def _of(rows: Callable[[Rows, int], Rows], views: Callable[[Rows], Rows]) -> Mistake:
    return lambda self, row_B, view_B, out: self.rightly(rows(row_B, len(self.index)), views(view_B), out)


def _after(change: Callable[[Pixels], Pixels]) -> Mistake:
    def mistake(self: Wrong, row_B: Rows, view_B: Rows, out: Pixels) -> None:
        self.rightly(row_B, view_B, out)
        out[:] = change(out.copy())

    return mistake


def _one_pixel(out: Pixels) -> Pixels:
    out[-1, -1, -1, 0] ^= 1
    return out


DRIFT = ("one level brighter", "one bit of one pixel of the last view")
"""Mistakes that are no more than a drift"""

SMALL = "shifted by a pixel"
"""Less than another view: where drift is accepted, it is not promised that this is told"""

SAME = (lambda row_B, _: row_B, lambda view_B: view_B)
MISTAKES: dict[str, Mistake] = {
    "the next row": _of(lambda row_B, rows: (row_B + 1) % rows, SAME[1]),
    "rows in another order": _of(lambda row_B, _: row_B[::-1].copy(), SAME[1]),
    "the next view": _of(SAME[0], lambda view_B: view_B + 1),
    "view 0 for all": _of(SAME[0], lambda view_B: view_B * 0),
    "channels reversed": _after(lambda out: out[..., ::-1]),
    "mirrored": _after(lambda out: out[:, :, ::-1]),
    "upside down": _after(lambda out: out[:, ::-1]),
    "one level brighter": _after(lambda out: np.clip(out.astype(np.int16) + 1, 0, 255).astype(np.uint8)),
    "one bit of one pixel of the last view": _after(_one_pixel),
    "shifted by a pixel": _after(lambda out: np.roll(out, 1, axis=2)),
}


def run(scale: Scale, place: Path) -> Tally:
    """Mistakes, fields, shards; each is few, so all of them at every scale."""
    del scale
    tally = Tally()
    worlds: dict[str, StoreReader] = {}
    for luma_ in (SKETCH, True):
        store = _world(worlds, place, RECIPE, luma_)
        for name, mistake in MISTAKES.items():
            _judge(tally, name, store, Wrong(store, mistake))
            if name != SMALL:
                _under_drift(tally, name, store, Wrong(store, mistake))
    for field, (recipe, value) in FIELDS.items():
        store = _world(worlds, place, recipe)
        other = dataclasses.replace(recipe, **{field: value})  # type: ignore[arg-type]
        _judge(tally, f"recipe {field}", store, Renderer(other, store.index, store.index.files()))
        _named(tally, store, field, other)
    for field, value in FIXED.items():
        _refused(tally, field, value)
    _other_shards(tally, place)
    _image_size(tally, _world(worlds, place, RECIPE))
    tally.note(
        f"{len(MISTAKES)} mistakes, with sketches and with thumbnails; {len(MISTAKES) - 1} of them where drift is "
        f"accepted, too, where the {len(DRIFT)} that are no more than that must pass; {len(FIELDS)} recipe fields by "
        "their pixels and by name, 2 with one value,"
    )
    tally.note("on_bad_image by a picture that cannot be decoded, image_size, shards exchanged, one bit of an image.")
    return tally


def _world(worlds: dict[str, StoreReader], place: Path, recipe: Recipe, luma_: Luma = SKETCH) -> StoreReader:
    name = f"{recipe.fingerprint()[:8]}-{luma_}"
    if name not in worlds:
        worlds[name] = StoreReader.open(make_store(place / name, rows=64, recipe=recipe, luma=luma_))
    return worlds[name]


@contextmanager
def feeding(
    store: StoreReader, index: SampleIndex, renderer: Renderer | None, *, accept_drift: bool = False
) -> Iterator[Feed]:
    """What a run trains on, with this renderer in place of its own."""
    settings = Settings(batch=24, epochs=2, views=store.layout.views)
    order = views_of(store, settings).order
    answers = StoredAnswers(store, needed(store.manifest, soft=False, luma=accept_drift), keep_units=8)
    with Loader(order.recipe, index, batch=piece_capacity(order), workers=0) as loader:
        if renderer is not None:
            loader._renderer = renderer
        yield Feed(order, answers, index, loader, Ranks(), keep=store.manifest.keep, accept_drift=accept_drift)
    answers.close()


def _judge(tally: Tally, name: str, store: StoreReader, renderer: Renderer, index: SampleIndex | None = None) -> None:
    """The first batch of epoch 1 (which sees view 1) must be refused with a name."""
    index = index or store.index
    try:
        with feeding(store, index, renderer) as feed:
            next(feed.steps(1, 0, 2))
    except ViewError as error:
        said = str(error)
        named = said.startswith("View 1 of row ") and "(key 's0/" in said and ".tar)" in said
        tally.case(failure=None if named and "is not the one that was labelled" in said else f"{name}: {said}")
    except ShardError as error:
        tally.case(failure=None if ".tar" in str(error) and "('s0/" in str(error) else f"{name}: {error}")
    else:
        tally.case(silent=f"{name}: the first batch passes")


def _under_drift(tally: Tally, name: str, store: StoreReader, renderer: Renderer) -> None:
    """Where drift is accepted, a drift must pass, and another view must not."""
    try:
        with feeding(store, store.index, renderer, accept_drift=True) as feed:
            next(feed.steps(1, 0, 2))
    except ViewError as error:
        named = str(error).startswith("View 1 of row ") and name not in DRIFT
        tally.case(failure=None if named else f"{name}, drift accepted: {error}")
    else:
        tally.case(silent=None if name in DRIFT else f"{name}: the first batch passes where drift is accepted")


def _named(tally: Tally, store: StoreReader, field: str, other: Recipe) -> None:
    wanted = dataclasses.replace(store.manifest, recipe=other)
    try:
        open_to_label(store.name, wanted, store.index, store.layout.views).close()
        tally.case(silent=f"recipe {field}: a run of the teacher goes on under another value")
    except MismatchError as error:
        mine, theirs = (getattr(recipe, field) for recipe in (store.manifest.recipe, other))
        said = f"recipe {field}: {mine!r} against {theirs!r}" in str(error)
        tally.case(failure=None if said else f"recipe {field}: {error}")


def _refused(tally: Tally, field: str, value: object) -> None:
    try:
        Recipe.from_json({**RECIPE.to_json(), field: value})
        tally.case(silent=f"recipe {field} = {value} is accepted")
    except RecipeError as error:
        tally.case(failure=None if field in str(error) and str(value) in str(error) else f"recipe {field}: {error}")


def _image_size(tally: Tally, store: StoreReader) -> None:
    """A student of another input size is refused before anything is drawn."""
    try:
        require_fit(store, store.index, Settings(image_size=64))
        tally.case(silent="image_size: 64 passes on views of 32")
    except UserError as error:
        tally.case(failure=None if "64" in str(error) and "32" in str(error) else str(error))


def _other_shards(tally: Tally, place: Path) -> None:
    """Shards that are not those that were labelled, although they have their names and their sizes."""
    urls = tiny_shards(place / "shards", 64, classes=5, size=(40, 40))
    store = StoreReader.open(make_store(place / "labels", rows=64, shards=urls))
    one, other = map(Path, urls)
    whole = one.read_bytes()
    one.write_bytes(other.read_bytes().ljust(len(whole), b"\0")[: len(whole)])
    _judge(tally, "shards exchanged", store, Renderer(store.manifest.recipe, store.index, store.index.files()))
    one.write_bytes(whole)
    payload = bytearray(whole)
    with feeding(store, store.index, None) as feed:
        row = int(min(feed.order.batch(1, 0).row_B))  # of the first batch, and in the first shard
    at = int(store.index.offsets[row]) + int(store.index.lengths[row]) // 2
    payload[at] ^= 4
    one.write_bytes(payload)
    _judge(tally, "one bit of an image", store, Renderer(store.manifest.recipe, store.index, store.index.files()))
    one.write_bytes(whole)
    _bad_image(tally, place)


def _bad_image(tally: Tally, place: Path) -> None:
    """on_bad_image: the store counted on a refusal, the student would draw grey."""
    bad = encoded(scene(5), "JPEG")[:-300]
    urls = tiny_shards(place / "bad", 64, classes=5, replace=dict.fromkeys(range(64), bad))
    grey = dataclasses.replace(RECIPE, on_bad_image="grey")
    store = StoreReader.open(make_store(place / "grey", shards=urls, recipe=grey))
    try:
        with feeding(store, store.index, Renderer(RECIPE, store.index, store.index.files())) as feed:
            next(feed.steps(1, 0, 2))
        tally.case(silent="on_bad_image: a refused picture is trained on")
    except UserError as error:
        tally.case(failure=None if "s0/" in str(error) else f"on_bad_image: {error}")
    _named(tally, store, "on_bad_image", RECIPE)


def sabotage(place: Path) -> Tally:
    """Checksums are not compared: every mistake must come through."""
    tally = Tally()
    store = StoreReader.open(make_store(place, rows=64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("student.feed.feed.require_labelled_views", lambda *_, **__: None)
        _judge(tally, "the next row", store, Wrong(store, MISTAKES["the next row"]))
    return tally
