"""How does a training run survive anything, and how does a reader know that a checkpoint is whole?

A run directory holds ``last.pt`` and ``previous.pt`` (everything that training needs to go on), and ``best.pt``
(weights only, of the best validation). Each file is what `torch.save` writes, with the SHA-256 of all of it in the
zip's own comment: one file that ``torch.load(path, weights_only=True)`` reads, and that can prove itself (torch ignores
the CRCs of its zip: a flipped bit would be other weights, silently).

    write    temporary name, fsync; last → previous; temporary → last; fsync of the directory
    resume   last; where it is absent or damaged, previous. A damaged file is put aside, never written over a good one

A checkpoint is a dict of plain values and tensors: ``spec`` (StudentSpec as JSON), ``model`` and ``ema`` (state dicts,
``ema`` may be None), ``meta`` (class_names, mean, std, recipe, distill, teacher, store, settings), ``epoch`` and
``step`` (the next step to train), in best ``validation`` (its scores), and in last and previous the training state
(``optimizer``, ``scaler``, ``means``, ``best``).
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pipeline.durable import aside
from pipeline.durable.file import telling
from pipeline.durable.local import flush, flush_directory, is_same_file
from pipeline.errors import StudentError, WeightsError
from pipeline.models.weights import load_as_data
from student.checkpoints.run_folder import (
    BEST,
    COMMENT,
    LAST,
    LOCK,
    PREVIOUS,
    RECORD,
    STATUS,
    digest_of,
    opened,
    path_of,
    require_digest,
)

OWN = (
    *(f"{which}.pt" for which in (LAST, PREVIOUS, BEST)),
    *("last.tmp", "best.tmp", RECORD, STATUS),
)
DAMAGED = ".damaged"
OWN_FOLDERS = ("dvclive", "mlflow", "tensorboard", "wandb")
KEPT = ("spec", "model", "ema", "meta", "epoch", "step", "validation")
"""What of a state is in `best`"""
OTHERS = {"zarr.json": "a Zarr store", "fit.json": "a fitted teacher", "pack.json": "a folder of shards"}
"""What lies in folders that no run belongs in"""

FORMAT = 1
_END_OF_ZIP = b"PK\x05\x06"

_HELD: list[BinaryIO] = []

log = logging.getLogger(__name__)

State = dict[str, Any]


def load(path: str | Path, which: str = LAST) -> State:
    """A checkpoint from a run directory or a file; refused where it is absent, damaged or of another format."""
    path = Path(path)
    file = path_of(path, which) if path.is_dir() else path
    try:
        return _read(file)
    except (FileNotFoundError, NotADirectoryError):
        there = sorted(p.stem for p in path.glob("*.pt")) if path.is_dir() else []
        raise StudentError(
            f"{file} is not there" + (f"; {path} has {', '.join(there)}." if there else ".") + " A run directory that "
            "student.train has written a checkpoint to (or such a file) is needed."
        ) from None


def newest(run: Path) -> State | None:
    """The state to go on from: `last`, or `previous` where `last` is absent or damaged. None in a fresh directory."""
    damage: StudentError | None = None
    for which in (LAST, PREVIOUS):
        if not path_of(run, which).exists():
            continue
        try:
            state = load(run, which)
        except StudentError as error:
            damage = error
            log.warning("%s", error)
            continue
        return state
    if damage:
        raise StudentError(
            f"{damage} No other checkpoint of {run} can be read. Give another --out; or --resume none, which sets "
            "aside what is there and begins again."
        )
    return None


def put_aside_damaged(run: Path) -> None:
    """Rename a damaged `last`, so that it never takes the place of a good `previous`; alone it stays as it is."""
    last = path_of(run)
    if last.exists() and path_of(run, PREVIOUS).exists():
        try:
            with last.open("rb") as file:
                require_digest(file, last)
        except StudentError as error:
            names = (f"{LAST}{f'-{number}' if number > 1 else ''}{DAMAGED}" for number in itertools.count(1))
            place = next(run / name for name in names if not (run / name).exists())
            last.replace(place)
            flush_directory(run)
            log.warning("%s It is kept as %s", error, place)


def is_without_state(run: Path) -> bool:
    """Whether a run has left its best weights here, and nothing that it could go on from."""
    return path_of(run, BEST).exists() and not any(path_of(run, which).exists() for which in (LAST, PREVIOUS))


def set_aside(run: Path, why: str, *, keep_record: bool = False) -> None:
    """Make room for another run in this folder, which its only writer goes on holding."""
    if not any((run / name).exists() for name in OWN):
        return
    earlier = aside.put_aside(run, why, folders=OWN_FOLDERS)
    Path(os.path.realpath(run)).mkdir(exist_ok=True)
    _hold(run)
    if keep_record and (earlier / RECORD).exists():
        shutil.copy(earlier / RECORD, run / RECORD)


def keep_one(run: Path) -> None:
    """Remove what was set aside of this run, which is finished now, except one."""
    aside.keep_one(run, finished=_is_finished, remove=_remove)


def _is_finished(run: Path) -> bool:
    try:
        state = load(run)
    except StudentError:
        return False
    return bool(state["epoch"] >= state["meta"]["settings"]["epochs"])


def _remove(run: Path) -> None:
    """What a run has written; other people's files stay, and the folder with them."""
    for name in OWN_FOLDERS:
        shutil.rmtree(run / name, ignore_errors=True)
    killed = (f"{Path(STATUS).stem}.tmp", f".{Path(RECORD).stem}-????????{Path(RECORD).suffix}")
    found = [path.name for pattern in (f"{LAST}*{DAMAGED}", *killed) for path in run.glob(pattern)]
    aside.remove_files(run, (*OWN, *found, "not_finite.txt", "mlflow.db", LOCK))


def save(run: Path, state: State) -> Path:
    """Write `last` durably; what was last becomes previous. At every instant one of them is whole."""
    last = path_of(run)
    temporary = _write_temporary(last, state)
    with telling(last):
        if last.exists():
            last.replace(path_of(run, PREVIOUS))
        temporary.replace(last)
        flush_directory(run)
    return last


def save_best(run: Path, state: State) -> Path:
    """Write `best`: the weights and what they mean, without the training state."""
    best = path_of(run, BEST)
    temporary = _write_temporary(best, {key: state[key] for key in KEPT if key in state})
    with telling(best):
        temporary.replace(best)
        flush_directory(run)
    return best


@contextlib.contextmanager
def only_writer(run: Path) -> Iterator[None]:
    """Hold the run directory; a second trainer on it is told at once."""
    for name, what in OTHERS.items():
        if (run / name).exists():
            raise StudentError(f"--out {run} is {what} ({name}). Give the run a folder of its own.")
    made = not run.exists()
    try:
        with telling(run):
            _hold(run)
        yield
    finally:
        if made and _HELD:
            _remove_empty(run)
        _let_go()


def _remove_empty(run: Path) -> None:
    """A folder in which nothing but the lock came to be, as where the first start was refused, goes again."""
    with contextlib.suppress(OSError):
        if [path.name for path in run.iterdir()] == [LOCK]:
            (run / LOCK).unlink()
            run.rmdir()


def _hold(run: Path) -> None:
    """Lock the folder; the lock lies in it, and so does not know of another folder under the same name."""
    for _ in range(9):
        run.mkdir(parents=True, exist_ok=True)
        try:
            file = (run / LOCK).open("wb")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:  # a start that is refused takes its folder away
            continue
        except BlockingIOError:
            file.close()
            break
        if is_same_file(file.fileno(), run / LOCK):
            _HELD.append(file)
            return
        file.close()
    raise StudentError(f"{run} is being written by another student.train. Wait for it, stop it, or give another --out.")


def _let_go() -> None:
    """Also in a forked worker: it must not hold the run for as long as it outlives a trainer that was killed."""
    while _HELD:
        _HELD.pop().close()


os.register_at_fork(after_in_child=_let_go)


def _write_temporary(target: Path, state: State) -> Path:
    """What torch.save writes, then its own SHA-256 as the comment of the zip, all of it on the disk."""
    temporary = target.with_suffix(".tmp")
    try:
        with telling(target), temporary.open("w+b") as file:
            _save({"format": FORMAT, **state}, file)
            file.seek(-22, os.SEEK_END)
            assert file.read(4) == _END_OF_ZIP, "torch.save has written something after the zip's end"
            file.seek(-2, os.SEEK_END)
            file.write(struct.pack("<H", COMMENT))
            end = file.tell()
            file.seek(0)
            digest = digest_of(file, end)
            file.seek(end)
            file.write(digest)
            file.flush()
            flush(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _save(state: State, file: BinaryIO) -> None:
    """torch.save, whose own error hides what the system said."""
    try:
        torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _read(path: Path) -> State:
    with opened(path) as file:
        require_digest(file, path)
        try:
            state = load_as_data(file, path)
        except WeightsError as error:
            raise StudentError(str(error)) from error
        except Exception as error:  # torch.load raises a dozen kinds for what was not written by torch.save
            raise StudentError(f"{path} cannot be read: {str(error) or type(error).__name__}") from error
    found = state.get("format") if isinstance(state, dict) else type(state).__name__
    if found != FORMAT:
        raise StudentError(
            f"{path} has format {found}, this program reads format {FORMAT}. Use the version that wrote it."
        )
    return dict(state)
