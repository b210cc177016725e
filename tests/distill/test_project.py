"""What stands in several files says the same in all of them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

from distill import __version__
from distill.commands import COMMANDS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKED = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=,;]", requirement)[0] for requirement in requirements} - {PROJECT["name"]}


def optional() -> dict[str, set[str]]:
    return {extra: names(asked) for extra, asked in PROJECT["optional-dependencies"].items()}


def made() -> set[str]:
    """The extras that the lock holds."""
    return set(re.findall(r"^EXTRAS := (.*?)  #", text("Makefile"), re.MULTILINE)[0].split())


def test_the_version_of_the_citation_and_of_the_changelog() -> None:
    assert yaml.safe_load(text("CITATION.cff"))["version"] == __version__
    assert re.findall(r"^## (\S+)", text("CHANGELOG.md"), re.MULTILINE)[0] == __version__


def test_the_page_of_names_is_the_table() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| `(\w+\.\w+)` \|$", text("docs/install.md"), re.MULTILINE)
    assert rows == [(name, place.removesuffix(":main")) for name, (place, _summary) in COMMANDS.items()]


def test_every_dependency_has_its_reason() -> None:
    page = set(re.findall(r"[\w-]+", text("docs/dependencies.md")))
    assert names(PROJECT["dependencies"]).union(*optional().values()) - page == set()
    assert set(optional()) - set(re.findall(r"`([a-z0-9]+)`", text("docs/dependencies.md"))) == set()


def test_the_lock_holds_what_is_needed_and_the_extras_of_the_makefile() -> None:
    wanted = names(PROJECT["dependencies"]).union(*(optional()[extra] for extra in made()))
    assert wanted - set(LOCKED) == set()
    assert set(optional()) - made() == {"examples", "loggers", "mlflow", "wandb"}
    assert "://" not in text("requirements.lock")


def test_every_python_that_is_named_is_tried() -> None:
    named = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    matrix = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == named and PROJECT["requires-python"] == f">={named[0]}"
    assert [each["os"] for each in matrix["include"]] == ["macos-latest"]


def test_the_image_is_made_of_what_it_copies() -> None:
    copied = set(re.findall(r"^!(\S+)", text(".dockerignore"), re.MULTILINE))
    assert {"pyproject.toml", "requirements.lock", PROJECT["readme"], *PROJECT["license-files"]} < copied
    assert {name for name in copied if (ROOT / name).is_dir()} == {"distill", "pipeline", "stages", "student"}
    asked = set(re.findall(r"^ARG EXTRAS=(\S+)", text("Dockerfile"), re.MULTILINE)[0].split(","))
    assert asked <= made() and "USER distill" in text("Dockerfile")
