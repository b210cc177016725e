"""What of a store can be kept when it is opened for writing, and what must be made again?

Making a store, going on with one, mending one and growing one by views are the same act: find what is whole, write what
is not, sweep what nothing vouches for. Nothing needs a step by hand.

    1. the base receipt: is this our store, of this contract? Nothing has been touched until that is answered.
    2. what is kept: objects that have the digests in the base receipt, and units whose receipt is sealed and whose
       objects are listed with the sizes in it. That they are there for good was settled before the receipt was written;
       that they have not been damaged since is asked where they are read, and here only by `Wanted.recheck`, because it
       costs every byte of the store.
    3. if anything must change, COMPLETE goes first: no reader takes a store in flux for a finished one.
    4. receipts of units that are not whole go, then every object of ours that nothing vouches for.
    5. metadata, index and witnesses are written where they are not what they must be; the base receipt last.

All of it is idempotent, and what it writes depends on the arguments alone (but for the environment, which is the one of
the first time). So a process that is killed anywhere in here leaves a store that the next one opens in the same way.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from pipeline.durable.canonical import NotCanonicalError
from pipeline.durable.objects import Objects, is_temporary
from pipeline.errors import ContractError, MismatchError, StoreError
from pipeline.labels.codes import Answers
from pipeline.labels.keep import Keep
from pipeline.shards.index import SampleIndex
from pipeline.store.arrays import objects_of
from pipeline.store.contents import (
    contract_at,
    get_record,
    listed,
    object_keys,
    read_base,
    require_ours,
    stored_layout,
    unit_receipts,
    whole,
)
from pipeline.store.layout import GAUGE_KEY, OURS, Layout, Unit
from pipeline.store.manifest import Manifest
from pipeline.store.receipts import (
    BASE_KEY,
    COMPLETE_KEY,
    Base,
    Contract,
    Digest,
    UnitTable,
    complete,
    read_unit_receipt,
    unit_keys,
    units_in,
)
from pipeline.store.witness import Witness

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The store that a run asks for, and where what it lacks comes from."""

    manifest: Manifest
    index: SampleIndex
    views: int
    draw_witness: Callable[[], Witness]
    """Called only where the witnesses are not there already"""
    environment: Callable[[], Mapping[str, str]]
    """Likewise"""
    answers: Answers | None = None
    """Likewise: the codes of all classes [N, C] about view 0 of these rows, for a keep that must be fitted"""
    recheck: bool = False
    """Are the objects of finished units read, and held to their digests?"""

    @property
    def contract(self) -> Contract:
        """Which store it is, as every receipt in it must name it."""
        return Contract(manifest=self.manifest.fingerprint(), index=self.manifest.index_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """A store with its base in place and nothing in it that is not vouched for."""

    layout: Layout
    base: Base
    table: UnitTable


def recover(objects: Objects, wanted: Wanted) -> Recovered:
    """Make, mend or grow the store under these objects into the one that is wanted, up to its missing units."""
    sizes = objects.sizes()
    stored = read_base(objects)
    known = stored_layout(objects, stored)
    _require_same_store(objects, sizes, wanted, stored, known)
    wanted = replace(wanted, views=_views(objects, sizes, wanted, stored))
    plan = _plan_base(objects, sizes, wanted, stored, known)
    table = _kept_units(objects, sizes, wanted, plan.layout)
    if plan.changes or not _stands_complete(objects, stored, table):
        objects.delete(COMPLETE_KEY)
        sizes.pop(COMPLETE_KEY, None)
    _sweep(objects, sizes, plan.layout, table)
    base = plan.carry_out(objects, wanted) if plan.changes or stored is None else stored
    return Recovered(layout=plan.layout, base=base, table=table)


def _require_same_store(
    objects: Objects, sizes: Mapping[str, int], wanted: Wanted, stored: Base | None, known: Layout | None
) -> None:
    """Refuse what is not a store, or is one of another contract."""
    receipts = units_in(sizes)
    if stored is None and known is None:
        require_ours(objects, sizes)
    if stored is None:
        found = {contract for unit in receipts if (contract := contract_at(objects, unit)) is not None}
    else:
        found = {stored.contract}
    for other in found - {wanted.contract}:
        if known is not None:
            try:
                known.manifest.require_same(wanted.manifest, where=objects.name)
            except MismatchError as difference:
                raise ContractError(str(difference)) from None
        raise ContractError(
            f"{objects.name} was labelled under manifest {other.manifest[:12]}, this run asks for "
            f"{wanted.contract.manifest[:12]}. Restore its flags, give another --out, or remove it to label anew."
        )


def _views(objects: Objects, sizes: Mapping[str, int], wanted: Wanted, stored: Base | None) -> int:
    """As many as are wanted, and all of which anything was finished: what has been labelled is never given up."""
    if stored is not None and stored.views <= wanted.views:
        return wanted.views
    if stored is not None and COMPLETE_KEY in sizes:
        most = stored.views
    else:
        begun = [unit for unit in units_in(sizes) if stored is None or unit.view < stored.views]
        most = 1 + max((unit.view for unit in begun if contract_at(objects, unit) == wanted.contract), default=0)
    if most > wanted.views:
        log.warning(
            "%s has %d views, this run asks for %d: it is used as it is, since a store grows and does not shrink "
            "(a student may use fewer: student.train --views %d)", objects.name, most, wanted.views, wanted.views,
        )  # fmt: skip
    return max(most, wanted.views)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How the base of the store comes to be what it must be."""

    layout: Layout
    metadata: Mapping[str, bytes]
    """The ``zarr.json`` files that must be written"""
    index: bool
    """Must the index be written?"""
    witness: Witness | None
    """The witnesses that must be written"""
    fitted: Keep | None
    """The keep whose components must be written"""
    intact: Mapping[str, Digest]
    """What is as it must be"""
    grown: bool

    @property
    def changes(self) -> bool:
        missing = self.index or self.witness is not None or self.fitted is not None
        return bool(self.metadata) or missing or self.grown

    def carry_out(self, objects: Objects, wanted: Wanted) -> Base:
        """Write what the plan says, and last of all the record that vouches for it."""
        digests = dict(self.intact)
        parts = [iter(self.metadata.items())]
        if self.index:
            parts.append(index_objects(self.layout, wanted.index))
        if self.witness is not None:
            parts.append(objects_of(self.layout.witness_arrays(), self.witness.arrays()))
        if self.fitted is not None:
            parts.append(component_objects(self.layout, self.fitted))
        for key, data in itertools.chain(*parts):
            objects.put(key, data)
            digests[key] = Digest.of(data)
        base = Base(contract=wanted.contract, views=self.layout.views, objects=digests)
        objects.put(BASE_KEY, base.to_bytes())
        return base


def _plan_base(
    objects: Objects, sizes: Mapping[str, int], wanted: Wanted, stored: Base | None, known: Layout | None
) -> _Plan:
    vouched = {} if stored is None or known is None else stored.objects
    found = whole(objects, sizes, list(vouched.items()))
    intact = {key: digest for (key, digest), ok in zip(vouched.items(), found, strict=True) if ok}
    seen = known is not None and intact.keys() >= object_keys(known.witness_arrays())
    witness = None if seen else wanted.draw_witness()
    keep = _fitted(objects, wanted, known, stored, intact)
    if known is not None and stored is not None:
        layout = replace(known, views=wanted.views, witnesses=known.witnesses if witness is None else len(witness))
    else:
        assert witness is not None
        manifest = replace(wanted.manifest, keep=keep or wanted.manifest.keep)
        layout = Layout.of(manifest, wanted.index, wanted.views, len(witness), wanted.environment())
    metadata = {key: (data, Digest.of(data)) for key, data in layout.metadata().items()}
    unwritten = {key: data for key, (data, digest) in metadata.items() if intact.get(key) != digest}
    kept = metadata.keys() | object_keys(layout.base_arrays())
    return _Plan(
        layout=layout,
        metadata=unwritten,
        index=not intact.keys() >= object_keys(layout.index_arrays()),
        witness=witness,
        fitted=keep,
        intact={key: digest for key, digest in intact.items() if key in kept},
        grown=stored is not None and stored.views != wanted.views,
    )


def _fitted(
    objects: Objects, wanted: Wanted, known: Layout | None, stored: Base | None, intact: Mapping[str, Digest]
) -> Keep | None:
    """A keep with components that must be written; None where they are there, or there are none."""
    keep = wanted.manifest.keep
    if (fitting := keep.fitting) is None:
        return None
    if known is not None and intact.keys() >= object_keys(known.component_arrays()):
        return None
    assert wanted.answers is not None, f"{keep} is fitted, and nobody answers"
    fitted = fitting.fit(wanted.answers(fitting.rows(wanted.manifest.rows, wanted.manifest.recipe.mix_window)))
    if known is not None and stored is not None:
        same = replace(known, manifest=replace(known.manifest, keep=fitted))
        written = {key: stored.objects.get(key) for key in object_keys(known.component_arrays())}
        if {k: Digest.of(data) for k, data in component_objects(same, fitted)} != written:
            raise StoreError(
                f"{objects.name}: components/ is damaged, and fitted again here it is another, by which the labels "
                "cannot be read. Restore it from a copy, or remove the store to label anew."
            )
    return fitted


def _kept_units(objects: Objects, sizes: Mapping[str, int], wanted: Wanted, layout: Layout) -> UnitTable:
    """The units that are whole: a sealed receipt of this store, and every object as the receipt says."""
    contract = wanted.contract
    arrays = layout.unit_arrays()
    table = UnitTable(layout.views, layout.runs, list(arrays))
    vouched: dict[Unit, list[Digest]] = {}
    known = [unit for unit in units_in(sizes) if unit.view < layout.views and unit.run < layout.runs]
    for unit, data in unit_receipts(objects, known):
        try:
            vouched[unit] = read_unit_receipt(data, unit, contract, unit_keys(arrays, unit))
        except NotCanonicalError as error:
            log.warning("%s of %s is computed again: its receipt is damaged (%s)", unit, objects.name, error)
    items = [pair for unit, d in vouched.items() for pair in zip(unit_keys(arrays, unit), d, strict=True)]
    verdict = iter(whole(objects, sizes, items, "recheck") if wanted.recheck else listed(sizes, items))
    for unit, digests in vouched.items():
        verdicts = [next(verdict) for _ in digests]
        if all(verdicts):
            table[unit] = digests
        else:
            log.warning("%s of %s is computed again: its objects are not what was written", unit, objects.name)
    return table


def _stands_complete(objects: Objects, stored: Base | None, table: UnitTable) -> bool:
    """Does COMPLETE stand there, and say what it must?"""
    if stored is None or table.missing():
        return False
    return get_record(objects, COMPLETE_KEY) == complete(stored, table)


def _sweep(objects: Objects, sizes: Mapping[str, int], layout: Layout, table: UnitTable) -> None:
    """Take away what nothing vouches for, receipts first; what is not ours stays."""
    kept = {BASE_KEY, COMPLETE_KEY, GAUGE_KEY} | layout.metadata().keys()
    kept |= object_keys(layout.base_arrays())
    arrays = layout.unit_arrays()
    for unit in table.finished():
        kept |= {unit.receipt_key, *unit_keys(arrays, unit)}
    doomed = [key for key in sizes if key not in kept and (OURS.fullmatch(key) or is_temporary(key))]
    for key in sorted(doomed, key=lambda key: (not key.startswith("receipts/"), key)):
        objects.delete(key)


def index_objects(layout: Layout, index: SampleIndex) -> Iterator[tuple[str, bytes]]:
    """Key and bytes of every object of the index, one after the other."""
    if index.stands_for is not None:  # its arrays are those of other shards
        raise MismatchError(
            "the store's index is damaged or not there, and these shards are not the ones that were labelled, but "
            "others of the same pictures. Name those that were labelled once, to have it written again."
        )
    return objects_of(layout.index_arrays(), index.arrays())


def component_objects(layout: Layout, keep: Keep) -> Iterator[tuple[str, bytes]]:
    """The objects of what the keep was fitted to, one after the other."""
    assert keep.fitting is not None, f"{keep} is fitted to nothing"
    return objects_of(layout.component_arrays(), keep.fitting.arrays())
