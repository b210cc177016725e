from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.durable import canonical
from pipeline.errors import MismatchError, RecipeError, StoreError
from pipeline.labels.argmax import Argmax
from pipeline.labels.topk import TopK
from pipeline.store.manifest import Manifest, TeacherCard, unit_rows_for
from pipeline.views.recipe import Recipe
from tests.stores import card, index_of, manifest_of

INDEX = index_of(100)
MANIFEST = manifest_of(INDEX, class_names=tuple("abcdefghijkl"), class_map=tuple(range(12)))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def test_a_manifest_is_read_as_it_is_written() -> None:
    record = json.loads(canonical.dump(MANIFEST.to_json()))
    assert Manifest.from_json(record) == MANIFEST
    assert Manifest.from_json(record).fingerprint() == MANIFEST.fingerprint()


CHANGES: dict[str, object] = {
    "recipe": Recipe(seed=3, image_size=8, crop_scale=(0.3, 1.0)),
    "index_digest": "cd" * 32,
    "rows": 99,
    "keep": TopK(4),
    "temperatures": (1.0,),
    "num_classes": 12,
    "class_names": tuple("abcdefghijkL"),
    "class_map": None,
    "unit_rows": 64,
    "luma": False,
}
TEACHER_CHANGES: dict[str, object] = {
    "name": "large",
    "weights_sha256": "cd" * 32,
    "mean": (0.0, 0.5, 0.5),
    "std": (1.0, 0.25, 0.25),
    "input_size": 9,
    "classes": 13,
    "precision": "bf16",
    "batch_size": 17,
}


def test_every_field_is_part_of_the_contract() -> None:
    names = {field.name for field in dataclasses.fields(Manifest)}
    assert names == {*CHANGES, "teacher"}, "a new field needs a place in this test"
    assert {field.name for field in dataclasses.fields(TeacherCard)} == set(TEACHER_CHANGES)
    others = [dataclasses.replace(MANIFEST, **{n: v}) for n, v in CHANGES.items() if n != "num_classes"]
    others += [dataclasses.replace(MANIFEST, teacher=card(**{n: v})) for n, v in TEACHER_CHANGES.items()]
    for other in others:
        assert len(MANIFEST.differences(other)) == 1
        with pytest.raises(MismatchError):
            MANIFEST.require_same(other, where="store.zarr")
    assert len({other.fingerprint() for other in [MANIFEST, *others]}) == len(others) + 1
    MANIFEST.require_same(dataclasses.replace(MANIFEST), where="store.zarr")


def test_a_mismatch_names_every_field_with_both_values_and_the_remedy() -> None:
    other = dataclasses.replace(
        MANIFEST,
        recipe=Recipe(seed=4, image_size=8, crop_scale=(0.3, 1.0)),
        teacher=card(weights_sha256="cd" * 32),
        class_names=tuple("abcdefghijkL"),
        keep=Argmax(),
    )
    with pytest.raises(MismatchError) as error:
        MANIFEST.require_same(other, where="store.zarr")
    assert str(error.value) == (
        "store.zarr was labelled under recipe seed: 3 against 4; recipe crop_scale: (0.08, 1.0) against (0.3, 1.0); "
        "teacher weights_sha256: abababababab against cdcdcdcdcdcd; keep: topk:3 against argmax; "
        "temperatures: [1.0, 3.0] against []; class_names: 'l' against 'L' at 11. "
        "Restore these values, or give another --out; to label anew, move store.zarr away "
        "(teacher_logits does with --if-changed rebuild)."
    )
    with pytest.raises(MismatchError, match="The shards are not those that were labelled: other files"):
        MANIFEST.require_same(dataclasses.replace(MANIFEST, index_digest="cd" * 32), where="store.zarr")


def test_temperatures_matter_to_top_k_alone_and_have_one_order() -> None:
    assert manifest_of(INDEX, "topk:3", temperatures=(3, 1)) == manifest_of(INDEX, "topk:3", temperatures=(1.0, 3.0))
    assert manifest_of(INDEX, "dense", temperatures=(3, 1)) == manifest_of(INDEX, "dense", temperatures=())


def test_impossible_manifests_are_refused() -> None:
    with pytest.raises(RecipeError) as error:
        manifest_of(INDEX, unit_rows=1000)
    assert str(error.value) == (
        "--unit-rows 1000 is not a power of two up to 65536. Give 512 to 8192, or leave the flag out."
    )
    with pytest.raises(MismatchError) as mismatch:
        manifest_of(INDEX, class_names=("a", "b"))
    assert str(mismatch.value) == (
        "the class names have 2 entries, the stored answers have 12 classes. Give one entry for each class."
    )
    with pytest.raises(RecipeError, match="wants 13 of 12 classes"):
        manifest_of(INDEX, "topk:13")
    with pytest.raises(RecipeError, match="distinct numbers from"):
        manifest_of(INDEX, temperatures=())


@pytest.mark.parametrize(
    ("rows", "window", "expected"),
    [(1, 64, 512), (65_536, 64, 512), (65_537, 64, 1024), (1_281_167, 64, 8192), (14_000_000, 512, 8192)],
)
def test_units_grow_with_the_data_within_bounds(rows: int, window: int, expected: int) -> None:
    assert unit_rows_for(rows, window) == expected
    assert expected % window == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_other_record_is_a_store_error(data: st.DataObject) -> None:
    record = json.loads(canonical.dump(MANIFEST.to_json()))
    target = data.draw(st.sampled_from([record, record["recipe"], record["teacher"]]))
    name = data.draw(st.sampled_from(sorted(target)))
    before = target[name]
    target[name] = data.draw(JSON)
    try:
        manifest = Manifest.from_json(record)
    except StoreError:
        return
    assert manifest.to_json() == record or target[name] == before


def test_records_of_other_shapes_are_store_errors() -> None:
    record = json.loads(canonical.dump(MANIFEST.to_json()))
    for broken in ({}, {**record, "extra": 1}, {**record, "rows": 100.0}, {**record, "keep": None}, [], None, "x"):
        with pytest.raises(StoreError):
            Manifest.from_json(broken)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"manifest: .*lacks \['rows'\], has unknown \['lines'\]"):
        Manifest.from_json({("lines" if k == "rows" else k): v for k, v in record.items()})


def test_a_sealed_record_notices_every_changed_bit() -> None:
    data = canonical.seal({"a": 1, "b": ["x", 2.5]})
    assert canonical.unseal(data) == {"a": 1, "b": ["x", 2.5]}
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(canonical.NotCanonicalError):
            canonical.unseal(bytes(flipped))


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]\n", b'{"a": 1}\n', b'{"b":1,"a":1}\n', b'{"a":1,"a":1}\n', b'{"a":1}', b"[" * 100_000]
)
def test_other_texts_are_not_canonical(text: bytes) -> None:
    with pytest.raises(canonical.NotCanonicalError):
        canonical.load(text)
