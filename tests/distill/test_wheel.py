"""The wheel holds what the folders hold, and its `distill` works from any other folder, with another `pipeline` there.

It is built from a copy of the files by the setuptools that is installed here, into a folder of its own: no network.
"""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from distill import __version__
from tests.pictures import encoded, scene

ROOT = Path(__file__).parents[2]
PACKAGES = ("distill", "pipeline", "stages", "student")
ROOM = "pipeline/a_room"  # that sub-packages are found is shown with one, whatever the layout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for package in (*PACKAGES, "tests", "benchmarks"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    (tree / ROOM).mkdir()
    (tree / ROOM / "__init__.py").touch()
    build = f"import sys; from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    built = subprocess.run([sys.executable, "-c", build], cwd=tree, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(place))
    subprocess.run([*pip, str(wheel)], check=True)
    return place


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with another project's packages of the same names, and photographs."""
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "photos" / name / f"{i}.jpg").write_bytes(encoded(scene(10 * number + i, 48, 40)))
    return tmp_path


def distill(installed: Path, *arguments: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    script = installed / "bin" / "distill"
    told = subprocess.run(
        [sys.executable, script, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    found = [path for package in PACKAGES for path in (ROOT / package).rglob("*")]
    kept = [path for path in found if path.suffix in (".py", ".typed", ".html", ".css")]
    assert sorted(names) == sorted([f"{ROOM}/__init__.py", *(str(path.relative_to(ROOT)) for path in kept)])
    assert {name for name in names if name.endswith("py.typed")} == {f"{package}/py.typed" for package in PACKAGES}


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    assert wheel.name == f"offline_distiller-{__version__}-py3-none-any.whl"
    archive = zipfile.ZipFile(wheel)
    named = {name.partition(".dist-info/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
    said = email.message_from_bytes(archive.read(named["METADATA"]))
    assert (said["License-Expression"], said["Requires-Python"]) == ("Apache-2.0", ">=3.11")
    assert archive.read(named["licenses/LICENSE"]) == (ROOT / "LICENSE").read_bytes()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = said.get_all("Requires-Dist") or []
    assert names(line for line in asked if "extra ==" not in line) == names(project["dependencies"])
    extras = project["optional-dependencies"]
    assert said.get_all("Provides-Extra") == list(extras)
    for extra, packages in extras.items():
        assert names(line for line in asked if line.endswith(f'extra == "{extra}"')) == names(packages)


def names(requirements: Iterable[str]) -> list[str]:
    return sorted(re.split(r"[\[<>=,; ]", requirement)[0] for requirement in requirements)


def test_it_works_from_another_folder(installed: Path, elsewhere: Path) -> None:
    assert distill(installed, "--version", cwd=elsewhere) == f"distill, version {__version__}\n"
    for workers in ("0", "2"):
        packed = distill(
            installed, "pack", "--images", "photos", "--out", f"data/{workers}", "--workers", workers, cwd=elsewhere
        )
        assert packed.startswith(f"shards: data/{workers} (4 images in 1 tars")


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_its_workers_start_in_another_folder(installed: Path, elsewhere: Path, method: str) -> None:
    distill(installed, "pack", "--images", "photos", "--out", "data", cwd=elsewhere)
    distill(
        installed, "fit-teacher", "--shards", "data/*.tar", "--model", "test_efficientnet", "--image-size", "32",
        "--epochs", "1", "--workers", "1", "--start-method", method, "--out", "teacher", cwd=elsewhere,
    )  # fmt: skip
    assert (elsewhere / "teacher" / "model.safetensors").is_file()
