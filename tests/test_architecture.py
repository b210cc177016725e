"""docs/architecture.md is written from the docstrings of the rooms, and these name every file that there is.

python -m tests.test_architecture        # write the page's list of rooms anew
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/architecture.md"
PACKAGES = ("pipeline", "student", "stages")
ROOMS = sorted(path.parent.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("__init__.py"))
START, END = "<!-- the rooms, from their docstrings -->\n", "<!-- end of the rooms -->\n"


def said_by(folder: Path) -> str:
    """The docstring of a room."""
    return ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text(encoding="utf-8"))) or ""


def files_of(folder: Path) -> list[str]:
    """Its files, without the face itself."""
    return sorted(path.stem for path in (ROOT / folder).glob("*.py") if path.stem != "__init__")


def listed() -> str:
    """All rooms as the page lists them."""
    parts = []
    for package in PACKAGES:
        for folder in (room for room in ROOMS if room.parts[0] == package):
            question, _, rest = said_by(folder).partition("\n\n")
            heading = "###" if len(folder.parts) == 1 else "####"
            parts.append(f"{heading} `{folder}/`\n\n*{question}*\n\n{rest}".rstrip() + "\n")
    return "\n" + "\n".join(parts) + "\n"


def with_rooms(page: str) -> str:
    """The page with its list of rooms as it should be."""
    before, _, rest = page.partition(START)
    return before + START + listed() + END + rest.partition(END)[2]


def test_the_page_lists_the_rooms_as_they_describe_themselves() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_rooms(page) == page, "write it anew: python -m tests.test_architecture"


@pytest.mark.parametrize("folder", [room for room in ROOMS if len(room.parts) > 1], ids=str)
def test_a_room_names_each_of_its_files(folder: Path) -> None:
    named = set(re.findall(r"`(\w+)`", said_by(folder)))
    assert set(files_of(folder)) - named == set(), f"the docstring of {folder}/__init__.py leaves files out"


def imported_rooms(folder: Path) -> set[str]:
    """The other rooms of its package that a room's files import."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / folder).glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in (node for node in nodes if isinstance(node, ast.ImportFrom)):
        names += [f"{node.module}.{alias.name}" for alias in node.names]
    rooms = {Path(*name.split(".")[:2]) for name in names}
    return {room.name for room in rooms & set(ROOMS) if room.parent == folder.parent} - {folder.name}


@pytest.mark.parametrize("folder", [room for room in ROOMS if len(room.parts) > 1], ids=str)
def test_a_room_says_what_it_imports(folder: Path) -> None:
    said = "".join(part for part in said_by(folder).split("\n\n") if part.startswith("Imports "))
    named, real = set(re.findall(r"`(\w+)`", said)), imported_rooms(folder)
    if not re.match(r"Imports (all rooms|every room)", said):
        assert named == real, f"{folder}/__init__.py says {sorted(named)}, and its files import {sorted(real)}"


@pytest.mark.parametrize("folder", ROOMS, ids=str)
def test_a_room_is_small_and_its_face_is_a_docstring_alone(folder: Path) -> None:
    assert len(files_of(folder)) <= 11, f"{folder} has {len(files_of(folder))} files: part it"
    if len(folder.parts) > 1:
        body = ast.parse((ROOT / folder / "__init__.py").read_text(encoding="utf-8")).body
        assert len(body) == 1 and said_by(folder), f"{folder}/__init__.py holds more, or less, than a docstring"


def test_no_class_has_more_than_twelve_public_members() -> None:
    trees = [
        ast.parse(path.read_text(encoding="utf-8")) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    ]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    own = {node.name: {part.name for part in node.body if isinstance(part, ast.FunctionDef)} for node in classes}
    for node in classes:
        inherited = set().union(*(own.get(base.id, set()) for base in node.bases if isinstance(base, ast.Name)))
        public = {name for name in own[node.name] | inherited if not name.startswith("_")}
        assert len(public) <= 12, f"{node.name} has {len(public)} public methods and properties: {sorted(public)}"


def test_every_decision_is_in_the_index_under_its_title() -> None:
    index = (ROOT / "docs/decisions/README.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs/decisions").glob("[0-9]*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix(f"# {path.name[:4]} ")
        assert f"| {path.name[:4]} | [{title}]({path.name}) | " in index, f"{path.name} is not listed as it is called"


def test_every_page_is_on_the_map() -> None:
    page = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    named = {name.split("#")[0] for name in re.findall(r"\]\(([^)]+)\)", page)}
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= named, f"docs/README.md does not name {sorted(pages - named)}"
    assert [name for name in named if not (ROOT / "docs" / name).exists()] == []


if __name__ == "__main__":
    PAGE.write_text(with_rooms(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def test_slow_files_of_tests_are_there() -> None:
    listed = (ROOT / "tests/slow.txt").read_text(encoding="utf-8").splitlines()
    names = [line for line in listed if not line.startswith("#")]
    assert names and len(set(names)) == len(names)
    assert [name for name in names if not (ROOT / "tests" / name).is_file()] == []
