"""How does a WebDataset pipeline of one's own get the views that a teacher saw, and its answers?

    stage = with_teacher("stores/train.zarr", answer="soft", tau=3.0)
    pipeline = wds.WebDataset(urls, shardshuffle=100, nodesplitter=wds.split_by_node).compose(stage)
    loader = wds.WebLoader(pipeline.shuffle(1000).batched(256), batch_size=None, num_workers=8)

The stage takes raw samples (before any ``decode``) and gives (view, label, teacher): the pixels that the teacher saw,
the true labels mixed as they are [C], and the teacher's answer. Each sample is found in the store by its shard and its
key, its bytes are held to the checksum of the index, and its view to the one stored beside the answer.

Views are mixed in pairs within windows of consecutive rows (`pipeline.views.mixing`), so the stage gathers the samples
of a window and draws its pairs one after another. A partner that does not come along, because its shard went to another
worker or node, or because it was filtered out, is read at its place in its shard. So shards may come in any order, more
than once, and split in any way; the windows of a shard must come in their order. A ``shuffle`` belongs behind the
stage. Nothing here imports webdataset: a stage is a callable.

Shapes: B samples of one window, C classes, H W C picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ShardError, StudentError
from pipeline.proofs.same_views import Seen
from pipeline.rendering.renderer import Renderer
from pipeline.shards.files import ShardFiles
from pipeline.shards.index import SampleIndex
from pipeline.shards.samples import IMAGE_FIELDS
from pipeline.shards.tar import TarMember
from pipeline.store.reader import StoreReader
from pipeline.views.imagenet import MEAN, STD
from pipeline.views.mixing import plan_mixing
from student.feed.feed import PIECE, Step, cut_between, require_labelled_views
from student.feed.order import Batch, changes
from student.feed.position import Position
from student.feed.sample_rows import Raw, SampleRows
from student.feed.stored_answers import StoredAnswers, needed
from student.feed.tensors import teacher_labels, truth_of
from student.feed.usable import index_of, require_usable, used_views
from student.feed.view_batch import Channels, Pixels, Shape, numbers

KEEP_UNITS = 16
CPU = torch.device("cpu")


class Taught(NamedTuple):
    """What a sample becomes once the teacher's answer has been added: a view, its label, and the answer."""

    view: Tensor
    label: Tensor
    """[C] float32; sums up to what of the mixture has a label"""
    teacher: Tensor
    """The class for the answer "argmax", [C] probabilities for "soft", [C] logits for "dense"."""


def with_teacher(
    store: str | Path | StoreReader,
    *,
    shards: str | Path | Sequence[str | Path] = (),
    views: int | None = None,
    answer: str = "argmax",
    tau: float = 3.0,
    pixels: Pixels = "float32",
    channels: Channels = "first",
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> TeacherStage:
    """A stage for ``compose``; the words mean what they mean to `student.dataset.StoredViews`.

    `shards` (patterns) are needed where the shards have other names than when they were labelled. In epoch e the views
    numbered e mod `views` are given. Each pass is an epoch after the one before; ``set_epoch`` says which comes next.
    """
    opened = store if isinstance(store, StoreReader) else StoreReader.open(store)
    index = index_of(opened, shards)
    require_usable(opened, index, accept_drift=False)
    shape = Shape(
        manifest=opened.manifest, answer=answer, tau=tau, pixels=pixels, channels=channels, mean=numbers(mean),
        std=numbers(std),
    )  # fmt: skip
    if answer not in ("argmax", "soft", "dense"):
        raise StudentError(f"answer {answer} is no single tensor. Ask for argmax, soft or dense.")
    return TeacherStage(opened, index, shape, used_views(opened, views))


class TeacherStage:
    """Turns raw samples into `Taught` ones; may be pickled, and used in a worker."""

    def __init__(self, store: StoreReader, index: SampleIndex, shape: Shape, views: int) -> None:
        self.store, self.index, self.shape, self.views = store, index, shape, views
        self._position = Position()
        self._shards = {url: number for number, url in enumerate(index.urls)}

    def set_epoch(self, epoch: int) -> None:
        """Have the pass that begins next give the views of this epoch."""
        self._position.set(epoch, 0)

    def __call__(self, samples: Iterable[Raw]) -> Iterator[Taught]:
        """All samples, taught; those of a mix window come pair by pair."""
        view = self._position.claim()[0] % self.views
        files = _AtHand(self.index)
        renderer = Renderer(self.shape.manifest.recipe, self.index, files)
        names = needed(self.shape.manifest, soft=self.shape.logits, luma=False)
        answers = StoredAnswers(self.store, names, keep_units=KEEP_UNITS)
        try:
            for row_B in self._windows(samples, files):
                yield from self._taught(row_B, view, renderer, answers)
                files.held.clear()
        finally:
            answers.close()

    def _windows(self, samples: Iterable[Raw], files: _AtHand) -> Iterator[NDArray[np.int64]]:
        """The rows that come one after another and lie in one mix window; their bytes are at hand."""
        mix_window = self.shape.manifest.recipe.mix_window
        rows = SampleRows(self.index, self._shards, self.store.name, mix_window)
        window, found = -1, dict[int, None]()
        for sample in samples:
            row = rows.of(sample)
            if (row // mix_window != window and found) or row in found:  # a shard may begin again within its window
                yield np.array([*found], np.int64)
                found = {}
            window = row // mix_window
            found[row] = None
            files.hold(row, sample)
        if found:
            yield np.array([*found], np.int64)

    def _taught(
        self, row_B: NDArray[np.int64], view: int, renderer: Renderer, answers: StoredAnswers
    ) -> Iterator[Taught]:
        batch = self._paired(row_B, view)
        for start, stop in pairwise(cut_between(batch, PIECE)):
            yield from self._drawn(batch.part(start, stop), renderer, answers)

    def _paired(self, row_B: NDArray[np.int64], view: int) -> Batch:
        """These rows with their mixing, partners side by side."""
        view_B = np.full(len(row_B), view, np.int64)
        mixing = plan_mixing(self.shape.manifest.recipe, len(self.index), row_B, view_B)
        lead_B = np.minimum(row_B, mixing.partner_B)
        order = np.lexsort((row_B, lead_B))
        lead_B = lead_B[order]
        return Batch(
            row_B=row_B[order],
            view_B=view_B,
            partner_B=mixing.partner_B[order],
            lam_B=mixing.lam_B[order],
            opens_B=changes(lead_B),
        )

    def _drawn(self, batch: Batch, renderer: Renderer, answers: StoredAnswers) -> Iterator[Taught]:
        """Some views, drawn and proven."""
        answers.expect(batch)
        side, manifest = self.shape.manifest.recipe.image_size, self.shape.manifest
        pixels_BHWC = np.empty((len(batch), side, side, 3), np.uint8)
        drawn = renderer.render(batch.row_B, batch.view_B, pixels_BHWC)
        found = answers.gather(batch)
        require_labelled_views(self.index, batch, found, Seen(drawn.crc_B, drawn.luma_B16), accept_drift=False)
        labels = teacher_labels(self.shape.keep, found.labels, self.shape.temperatures, CPU, self.shape.tau)
        given = self.shape.of(
            Step(
                epoch=0, step=0, whole=batch, batch=batch, pixels_BHWC=torch.from_numpy(pixels_BHWC),
                truth=truth_of(self.index, batch, CPU), teacher=labels,
            )
        )  # fmt: skip
        chosen = {"argmax": given.argmax, "soft": given.soft, "dense": given.logits}[self.shape.answer]
        assert chosen is not None
        return map(Taught, given.pixels, given.truth(manifest.num_classes), chosen)


class _AtHand(ShardFiles):
    """Shards of which some payloads are here already; others are read at their place."""

    def __init__(self, index: SampleIndex) -> None:
        super().__init__(index.urls, index.shard_sizes.tolist())
        self.index = index
        self.held: dict[tuple[int, int], bytes] = {}

    def hold(self, row: int, sample: Raw) -> None:
        """Keep a sample's picture, once it is the one that was indexed."""
        shard = int(self.index.shard_of(row))
        fields = [name for name in sample if name.rpartition(".")[2] in IMAGE_FIELDS]
        payloads = [sample[name] for name in fields]
        if not payloads or not all(isinstance(data, bytes) for data in payloads):
            kinds = ", ".join(f"{name}: {type(sample[name]).__name__}" for name in fields) or "none"
            raise StudentError(
                f"{self.urls[shard]}: sample '{self.index.key(row)}' has no picture in bytes ({kinds}). The stage "
                "draws from the files themselves: leave decode and rename out."
            )
        self._hold_class(row, sample)
        known = int(self.index.payload_crc[row])
        for data in payloads:
            if google_crc32c.value(data) == known:
                self.held[shard, int(self.index.offsets[row])] = data
                return
        raise ShardError(
            f"{self.urls[shard]}: the image of row {row} ({self.index.key(row)!r}) has crc32c "
            f"{google_crc32c.value(payloads[0]):08x}, and had {known:08x} when it was indexed: the shard was changed "
            "or damaged. Restore it."
        )

    def _hold_class(self, row: int, sample: Raw) -> None:
        """Refuse a class that was corrected since; a sample that comes without one is looked up in its shard."""
        fields = {name: TarMember(name=name, offset=0, size=len(data)) for name, data in sample.items()
                  if isinstance(data, bytes)}  # fmt: skip
        known, url = int(self.index.classes[row]), self.urls[int(self.index.shard_of(row))]
        try:
            found = self.index.label_rule.class_of(fields, lambda member, _: sample[member.name])
        except ValueError as error:
            raise ShardError(f"{url}: sample '{self.index.key(row)}': {error}.") from None
        if found == known:
            self.first_time(row)  # it need not be read again
        elif found != -1:
            raise ShardError(
                f"{url}: row {row} ({self.index.key(row)!r}) has class {found}, and had {known} when it was indexed: "
                "the shard was changed. Restore it, or label these shards anew under another --out."
            )

    def read(self, shard: int, offset: int, length: int) -> bytes:
        """From what is held, or from the shard."""
        held = self.held.get((shard, offset))
        return super().read(shard, offset, length) if held is None else held
