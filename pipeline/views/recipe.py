"""Which choices decide the pixels of a view and how it is mixed?

All of them, and nothing else: two runs with equal recipes over equal rows see equal views. A recipe is validated when
it is made (each error names the field, the value and the allowed range), has one canonical JSON text, and is known by
the SHA-256 of it. `docs/recipe.md` explains every field.

When a change to the program changes what any recipe draws or renders, `VERSION` goes up by one. Stores of the versions
in `RENDERED` are still drawn as they were:

    1  a simple crop of a square picture that falls on its upper left corner shows the middle instead
    2  it shows the corner
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pipeline.durable.canonical import one_line, sha256
from pipeline.errors import RecipeError
from pipeline.views.randaugment import Policy, parse

VERSION, RENDERED = 2, (1, 2)
_KNOWN = " and ".join(map(str, RENDERED))
CROPS = ("random", "center", "simple")
INTERPOLATIONS = ("bicubic", "bilinear", "random")
DECODERS = ("turbo",)
BAD_IMAGES = ("refuse", "grey")

_PRESETS: dict[str, dict[str, Any]] = {
    "deit": {},
    "light": {
        "crop_scale": (0.35, 1.0),
        "randaugment": "",
        "color_jitter": 0.0,
        "erase": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
    },
    "three": {"randaugment": "", "three_augment": True, "erase": 0.0},
    "none": {
        "crop": "center",
        "flip": 0.0,
        "randaugment": "",
        "color_jitter": 0.0,
        "erase": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
    },
}
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**64 - 1),
    "image_size": (8, 4096),
    "crop_pct": (0.01, 1.0),
    "flip": (0.0, 1.0),
    "color_jitter": (0.0, 1.0),
    "erase": (0.0, 1.0),
    "mixup": (0.0, 100.0),
    "cutmix": (0.0, 100.0),
    "mix_prob": (0.0, 1.0),
    "mix_switch": (0.0, 1.0),
    "mix_window": (2, 512),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides pixels and mixing. The defaults are DeiT's."""

    seed: int = 0
    """Seed of every draw."""
    image_size: int = 224
    """Side of a view in pixels."""
    crop: str = "random"
    """random: a box of random area and aspect; center: as in evaluation; simple: resize, pad by 4, shift."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the picture's area that a random crop takes."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of a random crop."""
    crop_pct: float = 0.875
    """Centre crop: share of the short side that is kept."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    randaugment: str = "rand-m9-mstd0.5-inc1"
    """RandAugment in timm's notation; empty turns it off."""
    three_augment: bool = False
    """One of greyscale, solarise and blur, as in DeiT III; needs `randaugment` off."""
    color_jitter: float = 0.3
    """Spread of brightness, contrast and saturation; used only where RandAugment is off."""
    erase: float = 0.25
    """Probability of random erasing with pixel noise."""
    mixup: float = 0.8
    """Alpha of mixup; 0 turns it off."""
    cutmix: float = 1.0
    """Alpha of CutMix; 0 turns it off."""
    mix_prob: float = 1.0
    """Probability that a pair is mixed."""
    mix_switch: float = 0.5
    """Probability of CutMix where both are on."""
    mix_window: int = 64
    """Consecutive rows among which partners are drawn; a power of two."""
    interpolation: str = "bicubic"
    """Filter of resizing and of geometric operations; random: one of the two each time."""
    decoder: str = "turbo"
    """Who turns a payload into pixels."""
    on_bad_image: str = "refuse"
    """What an undecodable picture does: refuse stops, grey stands in for it."""
    version: int = VERSION
    """Of the meaning of all the above."""

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _typed(field.name, getattr(self, field.name), field.default))
        if self.version not in RENDERED:
            raise RecipeError(
                f"recipe version {self.version} is not known, this program renders versions {_KNOWN}: "
                "use the release that wrote it"
            )
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise _refused(name, getattr(self, name), f"must lie in [{low}, {high}]")
        _require_interval("crop_scale", self.crop_scale, 0.0, 1.0)
        _require_interval("crop_ratio", self.crop_ratio, 0.0, 100.0)
        if self.mix_window & (self.mix_window - 1):
            raise _refused("mix_window", self.mix_window, "must be a power of two in [2, 512]")
        for name, known in _NAMES.items():
            if getattr(self, name) not in known:
                raise _refused(name, getattr(self, name), f"must be one of {', '.join(known)}")
        policy = self.policy
        if policy and self.three_augment:
            raise _refused("three_augment", True, f"needs randaugment off, which is {self.randaugment!r}: give ''")

    @property
    def policy(self) -> Policy | None:
        """What the recipe's RandAugment text asks for; None where it is empty."""
        return parse(self.randaugment) if self.randaugment else None

    @property
    def jitters(self) -> bool:
        """Whether colour jitter is applied: not beside RandAugment, except beside its 3a set (as timm)."""
        policy = self.policy
        return self.color_jitter > 0 and (policy is None or policy.chosen == "3a")

    @property
    def mixes(self) -> bool:
        """Whether views of two rows can be mixed at all."""
        return self.mix_prob > 0 and (self.mixup > 0 or self.cutmix > 0)

    def fingerprint(self) -> str:
        """The SHA-256 that names the recipe: another wherever a field differs."""
        return sha256(one_line(self.to_json()))

    def to_json(self) -> dict[str, object]:
        """All fields by name, as values that JSON can hold."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Recipe:
        """The recipe that `to_json` wrote; unknown and absent fields are errors, not defaults."""
        names = {field.name for field in fields(cls)}
        if record.get("version", VERSION) in RENDERED and set(record) != names:
            unknown, absent = sorted(set(record) - names), sorted(names - set(record))
            listed = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [f"absent {', '.join(absent)}"] * bool(absent)
            raise RecipeError(f"a recipe record has other fields than versions {_KNOWN}: {'; '.join(listed)}")
        return cls(**{name: value for name, value in record.items() if name in names})

    def differences(self, other: Recipe) -> list[str]:
        """Each field that differs from `other`, with both values."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return [f"{name}: {mine!r} against {theirs!r}" for name, mine, theirs in pairs if mine != theirs]

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Recipe:
        """The recipe called `name` (deit, light, three or none), with other values for some fields."""
        if name not in _PRESETS:
            raise RecipeError(f"recipe {name!r} is not known: it is one of {', '.join(_PRESETS)}")
        return cls(**{**_PRESETS[name], **overrides})


_NAMES = {"crop": CROPS, "interpolation": INTERPOLATIONS, "decoder": DECODERS, "on_bad_image": BAD_IMAGES}


def _typed(name: str, value: object, default: object) -> object:
    """The value in the type of its default, so that 1, 1.0 and [1, 1] cannot make two fingerprints of one recipe."""
    if isinstance(default, tuple) and isinstance(value, (tuple, list)) and len(value) == 2:
        return tuple(_typed(name, part, 0.0) for part in value)
    if isinstance(default, bool) or isinstance(value, bool):
        matches = isinstance(default, bool) and isinstance(value, bool)
    elif isinstance(default, float) and isinstance(value, (int, float)) and math.isfinite(value):
        return float(value) + 0.0
    else:
        matches = type(value) is type(default) and not isinstance(default, tuple)
    if not matches:
        wanted = {bool: "true or false", float: "a number", int: "a whole number", str: "a text", tuple: "two numbers"}
        raise _refused(name, value, f"must be {wanted[type(default)]}")
    return value


def _require_interval(name: str, value: tuple[float, float], low: float, high: float) -> None:
    if not low < value[0] <= value[1] <= high:
        raise _refused(name, value, f"must be two numbers LOW <= HIGH in ({low}, {high}]")


def _refused(name: str, value: object, rule: str) -> RecipeError:
    return RecipeError(f"{name} (--{name.replace('_', '-')}) is {value!r}: it {rule}")
