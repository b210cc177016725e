"""Which arrays does a store have, what do they mean, and what stands in its metadata?

A pure function of the manifest, the number of views, where the shards lay, and the size of the index:

    zarr.json     the root group: format, manifest, environment; and the metadata of all arrays once more, so that
                  listing the group asks for nothing else
    argmax, crc, luma, logits | topk_index, topk_logit, lse | next_low, next_high, head, tail
                  [views, rows, …]; a block is one view × one run of rows
    index/*       the `SampleIndex`, in blocks of 2^20 values
    witness/*     some views in full: pixels, rows, views
    components/*  what the teacher's logits are made of, where the keep is lowrank: mean, step, spread

So metadata is never trusted: a reader takes what it needs from the root's attributes, makes all of it anew, and refuses
a store in which any byte of any ``zarr.json`` is another (`Layout.from_root`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.durable import canonical
from pipeline.errors import ShardError, StoreError
from pipeline.labels.codes import class_dtype
from pipeline.labels.keep import Form
from pipeline.labels.keeps import ARRAYS, FITTED_ARRAYS
from pipeline.proofs.proof import SKETCH
from pipeline.shards.index import SampleIndex
from pipeline.shards.index_checks import DTYPES, MEANINGS
from pipeline.shards.truth import LabelRule
from pipeline.store.arrays import ArraySpec
from pipeline.store.manifest import Manifest
from pipeline.store.witness import witness_arrays

FORMAT = "offline-distiller label store"
VERSION = 1

GAUGE_KEY = "gauge.json"
"""What the keep gives back of the teacher's signal (`pipeline.inspection.gauge`): told, and vouched for by nothing"""

INNER_ROWS = 1024
"""Rows of a compressed chunk: what is decoded when a stranger asks plain Zarr for one value"""

INDEX_BLOCK, INDEX_CHUNK = 2**20, 2**16

OURS = re.compile(
    r"zarr\.json|COMPLETE|gauge\.json|receipts/(base|[0-9]+/[0-9]+)\.json"
    rf"|({'|'.join(('crc', 'luma', *ARRAYS))})/(zarr\.json|c(\.[0-9]+){{2,3}})"
    rf"|components/(zarr\.json|({'|'.join(FITTED_ARRAYS)})/(zarr\.json|c(\.[0-9]+){{1,2}}))"
    r"|index/(zarr\.json|[a-z_]+/(zarr\.json|c\.[0-9]+))"
    r"|witness/(zarr\.json|(pixels|rows|views)/(zarr\.json|c(\.[0-9]+){1,4}))"
)
"""Every key that a store can have. What else lies there is not ours: it is left alone, and told by verify"""


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """What the teacher finishes and commits at once: one view of one run of rows."""

    view: int
    run: int

    def __str__(self) -> str:
        return f"unit view {self.view}, run {self.run}"

    @property
    def receipt_key(self) -> str:
        """The key of the object that says the unit is finished."""
        return f"receipts/{self.view}/{self.run}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Everything that the metadata of a store depends on: contract, views, class names, places and environment."""

    manifest: Manifest
    views: int
    environment: Mapping[str, str]
    """Library versions and hardware at creation: recorded and shown, deciding nothing"""
    urls: tuple[str, ...]
    """Where the shards lay"""
    class_names: tuple[str, ...] | None
    """Of the index"""
    key_bytes: int
    """Of all keys together"""
    witnesses: int
    """Views that are kept in full"""
    label_key: str | None = None
    """Of the index; written only where it is not None, as stores that are older have none"""

    @classmethod
    def of(
        cls, manifest: Manifest, index: SampleIndex, views: int, witnesses: int, environment: Mapping[str, str]
    ) -> Layout:
        """The layout of a store that is about to be made."""
        return cls(
            manifest=manifest,
            views=views,
            environment=dict(environment),
            urls=tuple(index.urls),
            class_names=index.class_names,
            key_bytes=len(index.key_bytes),
            witnesses=witnesses,
            label_key=index.label_key,
        )

    @property
    def runs(self) -> int:
        """How many runs the rows are cut into; the last one may be short."""
        return -(-self.manifest.rows // self.manifest.unit_rows)

    def units(self) -> list[Unit]:
        """All units of the store, the runs of view 0 first."""
        return [Unit(view, run) for view in range(self.views) for run in range(self.runs)]

    def rows_of(self, unit: Unit) -> tuple[int, int]:
        """The first row of a unit, and the one after its last."""
        assert 0 <= unit.view < self.views and 0 <= unit.run < self.runs, f"{unit} is not in the store"
        start = unit.run * self.manifest.unit_rows
        return start, min(start + self.manifest.unit_rows, self.manifest.rows)

    def rows_in(self, units: Iterable[Unit]) -> int:
        """How many rows these units have, each counted as often as a unit has it: so many labels."""
        return sum(stop - start for start, stop in map(self.rows_of, units))

    def unit_arrays(self) -> dict[str, ArraySpec]:
        """The arrays that every unit writes one object of, in the order in which receipts list them."""
        m = self.manifest
        kind = class_dtype(m.num_classes)
        argmax = Form(dtype=kind, fill=int(np.iinfo(kind).max), level=9, shuffle="bitshuffle", meaning=_ARGMAX)
        crc = _SKETCHED if m.luma == SKETCH else _CRC
        forms = {"argmax": argmax, "crc": Form(dtype=np.dtype(np.uint32), fill=0, level=1, meaning=crc)}
        if m.luma is True:
            forms["luma"] = Form(dtype=np.dtype(np.uint8), fill=0, width=16, axis="cell", meaning=_LUMA)
        forms |= m.keep.forms(m.num_classes, m.temperatures)
        return {name: self._unit(name, form) for name, form in forms.items()}

    def _unit(self, path: str, form: Form) -> ArraySpec:
        tail = (form.width,) if form.axis else ()
        unit_rows = self.manifest.unit_rows
        return ArraySpec(
            path=path,
            shape=(self.views, self.manifest.rows, *tail),
            block=(1, unit_rows, *tail),
            rows=min(INNER_ROWS, unit_rows),
            axis=1,
            names=("view", "row", form.axis) if form.axis else ("view", "row"),
            dtype=form.dtype,
            fill=form.fill,
            level=form.level,
            shuffle=form.shuffle,
            columns=form.columns,
            attributes={**form.attributes, **_meaning(form.meaning)},
        )

    def index_arrays(self) -> dict[str, ArraySpec]:
        """The arrays of the `SampleIndex`, by their names in it."""
        rows, shards = self.manifest.rows, len(self.urls)
        lengths = {"shard_sizes": shards, "shard_starts": shards + 1}
        lengths |= {"key_bytes": self.key_bytes, "key_starts": rows + 1}
        return {
            name: ArraySpec(
                path=f"index/{name}", dtype=dtype, shape=(lengths.get(name, rows),), block=(INDEX_BLOCK,),
                rows=INDEX_CHUNK, axis=0, names=(name,), attributes=_meaning(MEANINGS[name]),
            )
            for name, dtype in DTYPES.items()
        }  # fmt: skip

    def witness_arrays(self) -> dict[str, ArraySpec]:
        """The arrays of the witness views."""
        return witness_arrays(self.witnesses, self.manifest.recipe.image_size)

    def component_arrays(self) -> dict[str, ArraySpec]:
        """The arrays of what the keep was fitted to, if it was; an object each."""
        fitting = self.manifest.keep.fitting
        forms = {} if fitting is None else fitting.forms(self.manifest.num_classes)
        return {
            name: ArraySpec(
                path=f"components/{name}",
                dtype=form.dtype,
                shape=form.shape,
                block=form.shape,
                rows=form.shape[0],
                axis=0,
                names=form.axes,
                fill=form.fill,
                attributes=_meaning(form.meaning),
            )
            for name, form in forms.items()
        }

    def base_arrays(self) -> dict[str, ArraySpec]:
        """All arrays that are no unit's, by their paths: what the base receipt lists beside the metadata."""
        groups = (self.index_arrays(), self.witness_arrays(), self.component_arrays())
        return {spec.path: spec for arrays in groups for spec in arrays.values()}

    def metadata(self) -> dict[str, bytes]:
        """Every ``zarr.json`` of the store, by its key."""
        arrays = [*self.unit_arrays().values(), *self.base_arrays().values()]
        names = None if self.class_names is None else list(self.class_names)
        nodes = {spec.path: spec.metadata() for spec in arrays}
        told = {} if self.label_key is None else {"label_key": self.label_key}
        nodes["index"] = _group({"urls": list(self.urls), "class_names": names, **told})
        nodes["witness"] = _group(_meaning("views as the teacher saw them: columns of `rows` and `views` say which"))
        if (fitting := self.manifest.keep.fitting) is not None:
            nodes["components"] = _group(fitting.attributes())
        root = _group(
            {
                "format": format_record(),
                "manifest": self.manifest.to_json(),
                "environment": dict(self.environment),
            }
        )
        root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": nodes}
        return {"zarr.json": canonical.dump(root)} | {
            f"{path}/zarr.json": canonical.dump(node) for path, node in nodes.items()
        }

    @classmethod
    def from_root(cls, data: bytes) -> Layout:
        """The layout whose root ``zarr.json`` these bytes are; StoreError if no layout has them."""
        try:
            root = canonical.load(data)
            attributes, nodes = root["attributes"], root["consolidated_metadata"]["metadata"]
            require_format(attributes["format"])
            index = nodes["index"]["attributes"]
            names = index["class_names"]
            manifest = Manifest.from_json(attributes["manifest"])
            if (fitting := manifest.keep.fitting) is not None:
                manifest = replace(manifest, keep=fitting.sized(nodes["components"]["attributes"]))
            layout = cls(
                manifest=manifest,
                views=_count(nodes["argmax"]["shape"][0]),
                environment=_texts(attributes["environment"]),
                urls=tuple(index["urls"]),
                class_names=None if names is None else tuple(names),
                key_bytes=_count(nodes["index/key_bytes"]["shape"][0]),
                witnesses=_count(nodes["witness/rows"]["shape"][0]),
                label_key=LabelRule(key=_text(index.get("label_key"))).key,
            )
            same = layout.metadata()["zarr.json"] == data
        except (ShardError, LookupError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
            raise StoreError(f"zarr.json: not of a label store ({type(error).__name__}: {error})") from error
        if not same:
            raise StoreError("zarr.json: not what this program writes for the manifest that stands in it")
        return layout


_ARGMAX = "the teacher's class: its largest logit at full precision, the lowest class of several"
_CRC = "crc32c of the rendered view's uint8 pixels, height × width × RGB"
_SKETCHED = (
    "upper 16 bits: those of the crc32c of the rendered view's uint8 pixels, height × width × RGB; lower 16: a sketch, "
    "2 bits for each two cells of a 4 × 4 thumbnail"
)
_LUMA = "a 4 × 4 thumbnail of the rendered view, in rows from the top left"


def _meaning(text: str) -> dict[str, object]:
    return {"meaning": text}


def _group(attributes: Mapping[str, object]) -> dict[str, object]:
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def require_format(record: Any) -> None:
    """Refuse the record of a store of another format or version, and say which it is."""
    if not isinstance(record, dict) or record.get("name") != FORMAT:
        raise StoreError(f"it is of format {record!r:.80}, not '{FORMAT}'. Give a store that teacher_logits wrote.")
    if type(record.get("version")) is not int or record["version"] != VERSION:
        raise StoreError(
            f"it is of format version {record.get('version')!r:.20}, this program reads version {VERSION}. "
            "Read it with the release that wrote it, or label again."
        )


def format_record() -> dict[str, object]:
    """The record of this program's format and version, which `require_format` accepts."""
    return {"name": FORMAT, "version": VERSION}


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        raise ValueError(f"{value!r:.40} is not a length")
    return value


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is no text")
    return value


def _texts(record: Any) -> dict[str, str]:
    if not isinstance(record, dict) or not all(isinstance(v, str) for v in record.values()):
        raise ValueError("the environment is not a record of texts")
    return dict(record)
