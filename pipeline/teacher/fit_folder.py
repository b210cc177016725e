"""What is in the folder of a fitted teacher, and may a fit go on in it?

    last.pt             while the fit is under way: everything that the next epoch depends on, read back as data
    model.safetensors   when it is finished: the weights …
    config.json         … and what timm needs to build its model around them (`local-dir:FOLDER`); not for one's own
    fit.json            written last: the contract that the weights came from, their digest, and the curves

A contract is everything that decides the weights. A folder that was begun under another one is refused, or set aside
where the caller says so. One process writes at a time: a lock beside the folder ends with its holder.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from timm.models._hub import save_config_for_hf

from pipeline.durable import aside
from pipeline.durable.file import json_text, write_json, write_text
from pipeline.durable.local import LocalObjects
from pipeline.durable.objects import is_temporary
from pipeline.errors import MismatchError, TeacherError, first_line
from pipeline.models.weights import load_as_data, read_weights, weights_digest
from pipeline.teacher.fit import Fit, FitSettings, History
from pipeline.teacher.loading import is_own
from pipeline.views.recipe import Recipe

FORMAT = 1
STATE, WEIGHTS, CONFIG, RECORD = "last.pt", "model.safetensors", "config.json", "fit.json"
DRAFT = ".config.json"
"""What timm writes, until `config.json` has its place; a process that is killed leaves it there"""
OWN = (DRAFT, STATE, WEIGHTS, CONFIG, RECORD)
MOST_BYTES = 1 << 28
KINDS: dict[str, type] = {"contract": dict, "epoch": int, "history": list, "model": dict, "optimizer": dict}
"""Of the parts of a state"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitContract:
    """Everything that decides the weights that a fit ends with."""

    model: str
    model_args: dict[str, Any]
    start: str
    """random, pretrained, or the digest of the tensors that it begins from"""
    input_size: int
    precision: str
    settings: FitSettings
    recipe: Recipe
    index_digest: str
    class_names: tuple[str, ...] | None

    def to_json(self) -> dict[str, Any]:
        """The contract as JSON values, to be written beside the weights."""
        names = None if self.class_names is None else list(self.class_names)
        return json.loads(  # type: ignore[no-any-return]  # tuples among the model's arguments become lists
            json.dumps({**asdict(self), "recipe": self.recipe.to_json(), "class_names": names, "format": FORMAT})
        )

    def differences(self, earlier: dict[str, Any]) -> list[str]:
        """What differs from the contract of an `earlier` fit: each value by its flag, then and now."""
        then, now = _flat(earlier), _flat(self.to_json())
        if then.get("precision") == "auto":  # as was written once; what it stood for is not known
            then["precision"] = self.precision
        return [
            f"{name}: {then.get(name)!r} then, {now.get(name)!r} now"
            for name in sorted(then.keys() | now.keys())
            if then.get(name) != now.get(name)
        ]


class FittedFolder:
    """The folder in which a fit keeps its state, and in the end its weights; one process writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._objects = LocalObjects(path)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[FittedFolder]:
        """Hold the folder's lock meanwhile, so that no other process writes it."""
        with self._objects.lock():
            for key in self._objects.sizes():
                if is_temporary(key):
                    self._objects.delete(key)
            yield self

    def open(self, contract: FitContract, *, restart: bool) -> str:
        """'empty', 'begun' or 'finished' under this contract; another is refused, or the folder is set aside."""
        self._contract = contract
        earlier = self._earlier()
        if earlier is None:
            return "empty"
        differences = contract.differences(earlier)
        if not differences:
            if not (self.path / RECORD).exists():
                return "begun"
            if (self.path / STATE).exists():  # killed before it could forget it
                self._objects.delete(STATE)
            return "finished"
        if not restart:
            raise MismatchError(
                f"{self.path} holds a teacher that was fitted otherwise: {_few(differences)}. Give the flags that it "
                "was begun with, another --out, or --if-changed restart to fit it anew."
            )
        aside.put_aside(self.path, f"{self.path} is fitted anew, since {_few(differences)}.", folders=())
        self._objects = LocalObjects(self.path)  # which knows of no folder that was there
        return "empty"

    def _earlier(self) -> dict[str, Any] | None:
        """The contract of what is there."""
        if (self.path / RECORD).exists():
            record = self._record()
            if weights_digest(read_weights(self.path / WEIGHTS)) != record["weights_sha256"]:
                raise TeacherError(
                    f"{self.path / WEIGHTS} is not what was fitted: its tensors do not have the digest in {RECORD}. "
                    "Restore the folder, or remove it and fit again."
                )
            return dict(record["contract"])
        if (self.path / STATE).exists():
            return dict(self.load()["contract"])
        if self.path.is_dir() and any(self.path.iterdir()):
            names = ", ".join(sorted(p.name for p in self.path.iterdir())[:3])
            raise TeacherError(f"{self.path} holds files that no fit wrote ({names}). Name another --out.")
        return None

    def _record(self) -> dict[str, Any]:
        try:
            record = json.loads(self._objects.get(RECORD, MOST_BYTES))
            return {name: record[name] for name in ("contract", "weights_sha256", "history")}
        except (ValueError, KeyError, TypeError) as error:
            raise TeacherError(
                f"{self.path / RECORD} is damaged ({error}). Remove the folder and fit again."
            ) from error

    def load(self) -> dict[str, Any]:
        """The state that the fit goes on from; the file is read as data, never as code."""
        path = self.path / STATE
        try:
            with path.open("rb") as file:
                state = load_as_data(file, path)
            if "contract" not in state:
                raise MismatchError(
                    f"{path} is no state of a fit (of a student's run, perhaps). Name another --out for the teacher."
                )
            found = {name: state[name] for name in KINDS}
            for name, kind in KINDS.items():
                if not isinstance(found[name], kind) or isinstance(found[name], bool):
                    raise TypeError(f"its {name} is {type(found[name]).__name__}, not {kind.__name__}")
            return found
        except MismatchError:
            raise
        except Exception as error:  # torch.load raises a dozen kinds for a damaged file
            raise TeacherError(
                f"{path} cannot be read ({first_line(error)}). Remove it to begin the fit again."
            ) from error

    def save(self, fit: Fit) -> None:
        """Write down the state that the next epoch depends on."""
        data = io.BytesIO()
        torch.save({"contract": self._contract.to_json(), **fit.state()}, data)
        self._objects.put(STATE, data.getvalue())

    def finish(self, fit: Fit) -> None:
        """Write the weights and what timm needs to load them, then the record, then forget the state."""
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in fit.model.state_dict().items()}
        self._objects.put(WEIGHTS, safetensors.torch.save(weights))
        if not is_own(self._contract.model):
            self._objects.put(CONFIG, self._config(fit))
        record = {
            "contract": self._contract.to_json(),
            "weights_sha256": weights_digest(weights),
            "history": fit.history,
        }
        self._objects.put(RECORD, json_text(record, escaped=True).encode())
        self._objects.delete(STATE)
        aside.keep_one(
            self.path,
            finished=lambda place: (place / RECORD).exists(),
            remove=lambda place: aside.remove_files(place, reversed(OWN)),
        )

    def _config(self, fit: Fit) -> bytes:
        draft = self.path / DRAFT
        names = self._contract.class_names
        save_config_for_hf(
            fit.model,
            str(draft),
            model_config={} if names is None else {"label_names": list(names)},
            data_config={
                "input_size": (3, fit.eye.size, fit.eye.size),
                "mean": fit.eye.mean,
                "std": fit.eye.std,
                "crop_pct": fit.recipe.crop_pct,
                "interpolation": "bicubic",
            },
        )
        data = draft.read_bytes()
        draft.unlink()
        return data

    def report(self, metrics: Path | None, history: Path | None) -> dict[str, float]:
        """The last figures; also written as JSON, and the curves as CSV, where asked for."""
        curves: History = self._record()["history"]
        figures = {name: value for name, value in curves[-1].items() if name != "epoch"}
        if metrics is not None:
            write_json(metrics, figures)
        if history is not None:
            columns = sorted({name for line in curves for name in line} - {"epoch"})
            lines = [",".join(["epoch", *columns])]
            lines += [",".join(str(line.get(name, "")) for name in ("epoch", *columns)) for line in curves]
            write_text(history, "\n".join(lines) + "\n")
        return figures


def _few(differences: list[str], most: int = 4) -> str:
    more = len(differences) - most
    return "; ".join(differences[:most]) + (f"; and {more} more" if more > 0 else "")


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
