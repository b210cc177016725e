"""A store under any sequence of work, kills, damage, growth and reading: what is read was written, or is refused."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.errors import StoreError
from pipeline.store.reader import StoreReader
from tests.damaged_stores import INDEX, MANIFEST, damage, files, vouched_for
from tests.faults import Calls, in_child, wait_for
from tests.stores import fill, finished, labels_of, open_writing, same_labels, tree

MOST_VIEWS = 3
DAMAGES = ("empty", "cut", "longer", "zero", "flip", "delete")


class StoreMachine(RuleBasedStateMachine):
    """The model is one number (the views that were asked for) and whether damage may be there."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.path = self.folder / "store.zarr"
        self.views, self.damaged = 1, False

    @initialize(views=st.integers(1, 2))
    def begin(self, views: int) -> None:
        self.views = views

    @rule(units=st.sets(st.integers(0, 2 * MOST_VIEWS - 1)))
    def write_some(self, units: set[int]) -> None:
        with open_writing(self.path, MANIFEST, INDEX, self.views, recheck=self.damaged) as store:
            fill(store, [unit for at, unit in enumerate(store.layout.units()) if at in units])
        self.damaged = False

    @rule()
    def finish(self) -> None:
        with open_writing(self.path, MANIFEST, INDEX, self.views, recheck=self.damaged) as store:
            fill(store)
            store.finish()
        self.damaged = False
        finished(self.folder / "reference.zarr", MANIFEST, INDEX, self.views)
        assert tree(self.path) == tree(self.folder / "reference.zarr")
        shutil.rmtree(self.folder / "reference.zarr")

    @rule(at=st.integers(0, 120))
    def be_killed(self, at: int) -> None:
        def work() -> None:
            with Calls(at, kill=True).active(), open_writing(self.path, MANIFEST, INDEX, self.views) as store:
                fill(store)
                store.finish()

        assert wait_for(in_child(work)) in (0, -signal.SIGKILL)

    @precondition(lambda self: self.path.exists() and not self.damaged)
    @rule(kind=st.sampled_from(DAMAGES), number=st.integers(0, 200))
    def lose_what_has_no_receipt(self, kind: str, number: int) -> None:
        loose = [key for key in files(self.path) if key not in vouched_for(self.path)]
        if loose:
            damage_some(self.path / loose[number % len(loose)], kind)

    @precondition(lambda self: self.path.exists())
    @rule(kind=st.sampled_from(DAMAGES), number=st.integers(0, 200))
    def damage_anything(self, kind: str, number: int) -> None:
        present = files(self.path)
        if present:
            damage_some(self.path / present[number % len(present)], kind)
            self.damaged = True

    @precondition(lambda self: self.views < MOST_VIEWS)
    @rule()
    def ask_for_more_views(self) -> None:
        self.views += 1

    @invariant()
    def what_is_read_is_what_was_written(self) -> None:
        try:
            store = StoreReader.open(self.path)
            found = [(unit, store.read(unit.view, unit.run)) for unit in store.layout.units()]
        except StoreError:
            return
        assert all(same_labels(labels, labels_of(MANIFEST, unit)) for unit, labels in found)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


def damage_some(path: Path, kind: str) -> None:
    """Damage that needs a byte leaves an empty file alone."""
    if path.stat().st_size or kind == "delete":
        damage(path, kind)


StoreMachine.TestCase.settings = settings(
    max_examples=5, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStoreMachine = StoreMachine.TestCase
