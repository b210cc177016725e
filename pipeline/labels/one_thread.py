"""How is a small matrix product kept to one thread?

NumPy's BLAS shares a product of some million multiplications out to as many threads as there are cores, and they wait
for each other by spinning. Where other work keeps the cores busy, as a teacher and its renderers do, that costs ten to
thirty times the work itself (decision 0196). The sums are exact, so the number of threads changes no bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """NumPy's own BLAS has one thread meanwhile; what torch brings is left alone."""
    with _of_numpy().limit(limits=1):
        yield


@lru_cache(maxsize=1)
def _of_numpy() -> ThreadpoolController:
    """Looked for once: that takes milliseconds, and a limit then microseconds."""
    every = ThreadpoolController()
    inside = Path(np.__file__).resolve().parent
    beside = inside.with_name("numpy.libs")  # of the wheels
    paths = [lib.filepath for lib in every.lib_controllers]
    return every.select(filepath=[p for p in paths if {inside, beside} & set(Path(p).resolve().parents)])
