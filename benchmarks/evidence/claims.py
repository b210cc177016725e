"""What does a published table say of the paper's claims? Effects with intervals, and verdicts, from its runs alone.

A claim compares two rows of a table, and is judged from the accuracies of their seeds as the table's JSON has them: so
whoever has the results can compute every verdict again. What counts as reproduced, opposite or undecided was written
down before the runs: docs/evidence/protocol.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.evidence.statistic import Effect, more, paired, same

START, END = "<!-- verdicts: python -m benchmarks.evidence --tables -->", "<!-- end of verdicts -->"
SCALES_TOLD = ("large", "epochs-300", "epochs-fitted", "epochs", "photographs-short", "photographs", "longer", "")
"""In this order; tables of the small scale lie in the folder of results itself."""
SEED = re.compile(r", seed (\d+)$")


@dataclass(frozen=True, slots=True)
class Claim:
    """One of the paper's claims, as a comparison of two rows (or of two differences)."""

    text: str
    mine: str
    other: str
    beyond: tuple[str, str] | None = None
    """Rows whose difference is taken off: the claim is then of a larger gain."""
    equal: bool = False
    """Whether the claim is that nothing is lost, rather than that something is gained."""

    def effect(self, figures: Mapping[str, float]) -> Effect | None:
        """From a table's figures; nothing where a row has not been run."""
        rows = (self.mine, self.other, *(self.beyond or ()))
        found = [of_row(figures, row) for row in rows]
        seeds = sorted(set.intersection(*(set(values) for values in found)))
        if not seeds:
            return None
        mine, other, *beyond = ([100 * values[seed] for seed in seeds] for values in found)
        if beyond:
            mine = [one - more + less for one, more, less in zip(mine, *beyond, strict=True)]
        return paired(mine, other)

    def verdict(self, effect: Effect) -> str:
        """Reproduced, opposite, or undecided."""
        return same(effect) if self.equal else more(effect)


def of_row(figures: Mapping[str, float], row: str) -> dict[int, float]:
    """A row's accuracy for every seed."""
    prefix = f"{row}, seed "
    return {int(name.removeprefix(prefix)): value for name, value in figures.items() if name.startswith(prefix)}


SMOOTHINGS = ("0.3", "0.5", "0.7")
"""Of labels, beside the recipe's 0.1."""
PUBLISHED = "efficientnet_lite0"
"""The teacher of photographs, as its row is named"""
FUSED, PLAIN = "hard with token: both fused", "no distillation"
AS_THEY_ARE = "as they are"
"""The row of photographs that were not packed smaller"""
PARTS = ("mixup", "CutMix", "either", "erasing", "RandAugment", "drop path", "label smoothing", "repeated augmentation")
CLAIMS: dict[str, tuple[Claim, ...]] = {
    "distillation": (
        Claim("a convnet's hard labels help a student with a distillation token", FUSED, PLAIN),
        Claim("hard labels help a student without one", "hard, without token", PLAIN),
        Claim("soft labels help (the paper saw no gain)", "usual (soft), without token", PLAIN),
        Claim("hard labels beat soft ones, without a token", "hard, without token", "usual (soft), without token"),
        Claim("hard labels beat soft ones, with a token", FUSED, "soft with token: both fused"),
        Claim("the distillation token beats distilling on the class token", FUSED, "hard, without token"),
        Claim(
            "a second token that a teacher taught beats one that none taught",
            FUSED,
            "no distillation, two class tokens",
        ),
        Claim(
            "the distillation head beats the class head",
            "hard with token: distillation head",
            "hard with token: class head",
        ),
        Claim("both heads fused beat the distillation head", FUSED, "hard with token: distillation head"),
        Claim("both heads fused beat the class head", FUSED, "hard with token: class head"),
    ),
    "teachers": (
        Claim("a convnet teaches better than a transformer of equal accuracy", "regnety-small", "vit-small"),
        Claim("a convnet teaches better than a transformer, both fitted to the recipe", "regnety-recipe", "vit-recipe"),
        Claim("a teacher that never saw their pictures helps students", "regnety-others", "no teacher"),
        Claim("nothing is lost with a teacher that never saw them", "regnety-others", "regnety-recipe", equal=True),
        Claim("a teacher that was told no more than they are helps students", "regnety-same", "no teacher"),
        Claim("a teacher that was told more labels teaches better", "regnety-recipe", "regnety-same"),
        Claim("a teacher fitted to the recipe teaches better", "ResNet-20, tuned", "ResNet-20"),
        Claim("a better convnet teaches better", "ResNet-56", "ResNet-20"),
        *(
            Claim(f"{name} helps students", name, "no teacher")
            for name in (PUBLISHED, f"{PUBLISHED}, tuned", "regnety")
        ),
        Claim("a published teacher that was tuned to the recipe teaches better", f"{PUBLISHED}, tuned", PUBLISHED),
        Claim("one that began from nothing teaches better than the published one", "regnety", PUBLISHED),
        Claim("one that began from nothing teaches better than the tuned one", "regnety", f"{PUBLISHED}, tuned"),
    ),
    "alpha": (
        Claim("soft: a weight of 0.9 teaches better than 0.5", "soft, weight 0.9, τ = 1", "soft, weight 0.5, τ = 1"),
        Claim("hard: a weight of 0.9 teaches better than 0.5", "hard, weight 0.9", "hard, weight 0.5"),
        Claim(
            "soft: nothing is lost with the paper's 0.1 at τ = 3",
            "soft, weight 0.1, τ = 3",
            "soft, weight 0.5, τ = 1",
            equal=True,
        ),
    ),
    "smoothing": (
        *(
            Claim(f"smoothing {share} helps without a teacher", f"no teacher, smoothing {share}", "no teacher")
            for share in SMOOTHINGS
        ),
        *(
            Claim(f"{kind} labels beat smoothing {share}", f"{kind} labels", f"no teacher, smoothing {share}")
            for kind in ("soft", "hard")
            for share in SMOOTHINGS
        ),
    ),
    "recipe": (
        *(Claim(f"{part} is needed", "the whole recipe", f"without {part}") for part in PARTS),
        Claim("the moving average is better than the weights", "its moving average of weights", "the whole recipe"),
        Claim("AdamW is better than SGD", "the whole recipe", "SGD in place of AdamW"),
    ),
    "storage": (
        Claim("the largest logit teaches as well as all", "soft, the 1 largest", "soft, all logits", equal=True),
        Claim("the 3 largest logits teach as well as all", "soft, the 3 largest", "soft, all logits", equal=True),
        Claim(
            "the largest and 3 components teach as well as all",
            "soft, the largest and 3 components",
            "soft, all logits",
            equal=True,
        ),
    ),
    "resolution": (
        Claim("a few epochs at a higher resolution help", "then 32 pixels, soft", "24 pixels, soft"),
        Claim("they should be distilled, too", "then 32 pixels, soft", "then 32 pixels, no distillation"),
    ),
    "transfer": tuple(
        Claim(f"weights that learned {kind} labels transfer better", row, "from an undistilled student")
        for kind, row in (("hard", "from a distilled student"), ("soft", "from a distilled student (soft labels)"))
    ),
}
"""By table. A claim whose rows a table has not (another scale's names, not yet run) is left out there."""


def judged(name: str, figures: Mapping[str, float]) -> Iterator[tuple[Claim, Effect, str]]:
    """The claims of a table, with what its runs say."""
    for claim in (*CLAIMS.get(name, ()), *_of_numbers(name, figures)):
        if (effect := claim.effect(figures)) is not None:
            yield claim, effect, claim.verdict(effect)


def _of_numbers(name: str, figures: Mapping[str, float]) -> Iterator[Claim]:
    """Claims about rows that are named by a number, which differs from scale to scale, or by a teacher."""
    names = {SEED.sub("", figure) for figure in figures}
    rows = sorted((name for name in names if not name.endswith(" head")), key=_number)
    if name == "efficiency":
        yield from _of_labels(rows)
    if name == "temperature":
        for row in rows:
            teacher, _, tau = row.rpartition(", τ = ")
            if tau != "1":
                yield Claim(f"{teacher}: τ = {tau} teaches better than τ = 1", row, f"{teacher}, τ = 1")
    if name == "weight":
        yield from _of_weights(rows)
    if name == "length":
        yield from _of_epochs(rows)
    if name == "views":
        for row in rows[:-1]:
            count, most = _number(row)[0], _number(rows[-1])[0]
            yield Claim(f"nothing is lost with {count} in place of {most} views", row, rows[-1], equal=True)
    if name == "packing":
        for row in rows:
            if row != AS_THEY_ARE:
                yield Claim(f"nothing is lost with photographs packed to a {row}", row, AS_THEY_ARE, equal=True)


def _number(row: str) -> tuple[int, str]:
    """What a row is sorted by: the first number in its name."""
    found = re.search(r"\d[\d,]*", row)
    return int(found[0].replace(",", "")) if found else 0, row


def _of_labels(rows: list[str]) -> Iterator[Claim]:
    counts = [row.removesuffix(", no teacher") for row in rows if row.endswith(", no teacher")]
    for count in counts:
        yield Claim(f"{count}: soft labels help", f"{count}, soft", f"{count}, no teacher")
        for row in (row for row in rows if row.startswith(f"{count} and ")):
            yield Claim(f"{count}: with the pictures without a label, too", row, f"{count}, no teacher")
            yield Claim(f"{count}: the pictures without a label help", row, f"{count}, soft")
    if len(counts) > 1:
        few, many = counts[0], counts[-1]
        text = f"soft labels gain more with {few} than with {many}"
        yield Claim(text, f"{few}, soft", f"{few}, no teacher", (f"{many}, soft", f"{many}, no teacher"))


def _of_weights(rows: list[str]) -> Iterator[Claim]:
    counts = [row.removesuffix(", weight 0.5") for row in rows if row.endswith(", weight 0.5")]
    for count in counts:
        heavy = f"{count}, weight 0.9"
        yield Claim(f"{count}: a weight of 0.9 teaches better than 0.5", heavy, f"{count}, weight 0.5")
        for row in (row for row in rows if row.startswith(f"{count} and ")):
            yield Claim(f"{count}, weight 0.9: the pictures without a label help", row, heavy)
            yield Claim(f"{row}: nothing is lost against {counts[-1]}", row, f"{counts[-1]}, weight 0.9", equal=True)


def _of_epochs(rows: list[str]) -> Iterator[Claim]:
    lengths = [row.removesuffix(", no teacher") for row in rows if row.endswith(", no teacher")]
    for length in lengths:
        for kind in ("hard", "soft"):
            yield Claim(f"{length}: {kind} labels help", f"{length}, {kind}", f"{length}, no teacher")
    if len(lengths) > 1:
        short, long = lengths[0], lengths[-1]
        for kind in ("hard", "soft"):
            text = f"{kind} labels gain more in {long} than in {short}"
            pair = (f"{short}, {kind}", f"{short}, no teacher")
            yield Claim(text, f"{long}, {kind}", f"{long}, no teacher", pair)


def table(name: str, figures: Mapping[str, float]) -> list[str]:
    """Markdown lines: a line a claim; none where nothing was claimed."""
    lines = [f"| {claim.text} | {effect.text()} | {verdict} |" for claim, effect, verdict in judged(name, figures)]
    return ["| claim | points, 95 % interval | verdict |", "|---|---|---|", *lines] if lines else []


def write_verdicts(page: Path, results: Path) -> None:
    """Put what the published tables of every scale say between the marks of a page."""
    lines: list[str] = []
    for scale in SCALES_TOLD:
        for path in sorted((results / scale).glob("*.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            if found := table(path.stem, record["figures"]):
                seeds = len({name[name.rindex(",") :] for name in record["figures"]})
                title = f"{record['title']}, `--scale {scale or 'small'}`"
                drawn = page.parent / scale / f"{path.stem}.png"
                picture = f", [picture]({drawn.relative_to(page.parent)})" if drawn.exists() else ""
                lines += ["", f"**{title}** ([runs]({_link(page, path)}){picture}; {seeds} seeds)", "", *found]
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n" + "\n".join([*lines[1:], "", ""]) + f"{END}{after}", encoding="utf-8")


def _link(page: Path, path: Path) -> str:
    return "/".join([*[".."] * (len(page.parts) - 1), *path.with_suffix(".md").parts])
