"""dvc.yaml says what the code is: a stage lists its own file and the rooms that its module's import closure enters.

    python -m tests.stages.test_graph --write       # list them anew, in place

A module's closure is itself and everything of ours that it imports, at the top or inside a function, and what that
imports in turn. A room is a folder of a package; what lies beside the rooms is listed as a file. Nothing is imported to
find out.
"""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from pipeline.commands.recipe_flags import RECIPE_FLAGS

ROOT = Path(__file__).parents[2]
GRAPH = ROOT / "dvc.yaml"
PACKAGES = ("pipeline", "stages", "student")
PARAMS = ("params.yaml", "params.imagenet.yaml", "params.folder.yaml", "params.few.yaml", "params.charts.yaml")
PAINTED = ("params.yaml", "params.charts.yaml")
PARTS = ("demo_images", "pack", "hold_out", "teacher_logits")
"""Groups that are a dictionary of parts, each a stage of its own"""
OURS = re.compile(rf"(?:{'|'.join(PACKAGES)})/[\w/]+(?:\.py)?$")
SPEED = ("device", "workers", "start-method", "compile", "views-together", "attention", "accumulate", "log-level")


def file_of(module: str) -> Path | None:
    """Where a module of ours is, without importing it."""
    path = ROOT.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def imports(path: Path) -> Iterator[str]:
    """Every name of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def closure(module: str) -> list[str]:
    """The files that decide what a module does, sorted, as paths from the root."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = file_of(name)
        if path is not None and path not in found:
            found.add(path)
            waiting += imports(path)
        if "." in name:
            waiting.append(name.rpartition(".")[0])
    return sorted(str(path.relative_to(ROOT)) for path in found)


def rooms(module: str) -> list[str]:
    """What the module's stage depends on, sorted: the rooms of its closure, and the files that lie in none."""
    paths = [Path(path) for path in closure(module)]
    return sorted({str(path.parent if len(path.parts) > 2 else path) for path in paths if path.name != "__init__.py"})


def stages(graph: str) -> dict[str, dict[str, object]]:
    """Each stage's definition (of a foreach: what it does for each)."""
    found = yaml.safe_load(graph)["stages"]
    return {name: stage.get("do", stage) for name, stage in found.items()}


def module_of(stage: dict[str, object]) -> str:
    start, dash_m, module = str(stage["cmd"]).split()[:3]
    assert start in ("python", "${launch}") and dash_m == "-m", stage["cmd"]
    return module


def rewritten(graph: str) -> str:
    """The graph with the rooms of every stage listed anew, behind what it reads."""
    lines, stage, skipping = [], "", ""
    for line in graph.splitlines():
        if start := re.match(r"^  (\w+):$", line):
            stage = start[1]
        if skipping and line.startswith(skipping + " "):
            continue
        skipping = ""
        lines.append(line)
        if line.strip() == "deps:":
            skipping = line[: line.index("deps")]
            lines += dependencies(stages(graph)[stage], skipping + "  ")
    return "\n".join(lines) + "\n"


def dependencies(stage: dict[str, object], indent: str) -> list[str]:
    """The dependencies of a stage as lines of YAML: first what it reads, then our rooms."""
    listed = [str(dep) for dep in stage["deps"]]  # type: ignore[attr-defined]
    reads = [dep for dep in listed if not OURS.match(dep)]
    items = [f'"{dep}"' if "$" in dep else dep for dep in [*reads, *rooms(module_of(stage))]]
    return textwrap.wrap(
        f"[{', '.join(items)}]", 118, initial_indent=indent, subsequent_indent=indent + " ", break_on_hyphens=False
    )


GRAPH_TEXT = GRAPH.read_text(encoding="utf-8")
STAGES = stages(GRAPH_TEXT)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_lists_the_rooms_of_its_import_closure(name):
    listed = [str(dep) for dep in STAGES[name]["deps"] if OURS.match(str(dep))]
    needed = rooms(module_of(STAGES[name]))
    assert listed == needed, (
        f"stage {name}: missing {sorted(set(needed) - set(listed))}, too many {sorted(set(listed) - set(needed))}. "
        "List them anew: python -m tests.stages.test_graph --write"
    )


@pytest.mark.parametrize("name", ["pack", "demo_images", "compact_logits"])
def test_what_draws_no_view_does_not_depend_on_how_views_are_drawn(name):
    assert not {"pipeline/rendering", "pipeline/teacher"} & set(rooms(f"stages.{name}"))


def test_exporting_a_student_draws_nothing():
    assert "pipeline/rendering" not in rooms("student.export")


def test_editing_an_augmentation_does_not_pack_again():
    entered = {path for path in closure("stages.pack") if "/randaugment" in path or "/rendering/" in path}
    assert not entered or "pipeline/views" not in rooms("stages.pack")


def test_the_writer_changes_nothing_that_is_right():
    assert rewritten(GRAPH_TEXT) == GRAPH_TEXT


def test_the_closure_finds_what_python_would_import():
    import subprocess

    code = (
        "import sys, stages.pack; print(*[m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in sys.argv])"
    )
    out = subprocess.run([sys.executable, "-c", code, *PACKAGES], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = {str(Path(p).relative_to(ROOT)) for p in out.stdout.split()}
    assert loaded <= set(closure("stages.pack"))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_its_module_and_its_group_of_parameters(name):
    stage = STAGES[name]
    assert module_of(stage).split(".")[1] == {"hold_out": "pack"}.get(name, name)
    assert str(stage["desc"]).endswith(".")
    assert all(str(group).split(".")[0] == name for group in stage.get("params", []))


def commands() -> dict[str, click.Command]:
    return {name: import_module(module_of(stage)).main for name, stage in STAGES.items()}


def flags_of(params: dict[str, Any], stage: str) -> Iterator[tuple[str, object]]:
    """The flags that parameters unpack to: a stage's group, its group for each part, and those of each student."""
    groups = [params.get(stage) or {}]
    if stage in PARTS:
        groups = list(groups[0].values())
    if stage == "train":
        groups += params["students"].values()
    yield from itertools.chain.from_iterable(group.items() for group in groups if isinstance(group, dict))


@pytest.mark.parametrize("file", PARAMS)
def test_every_parameter_is_a_flag_of_its_stage_and_none_is_about_speed(file):
    params = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    for stage, command in commands().items():
        known = {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)}
        for flag, value in flags_of(params, stage):
            assert f"--{flag}" in known, f"{file}: {stage} has no flag --{flag}"
            assert flag not in SPEED, f"{file}: --{flag} of {stage} changes speed alone; it belongs to the environment"
            for one in value if isinstance(value, list) else [value]:
                parameter = next(p for p in command.params if f"--{flag}" in p.opts)
                if not isinstance(one, bool):
                    parameter.type.convert(one, parameter, None)


def test_the_values_that_a_page_recommends_are_flags_too():
    page = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]
    told = [(stage, flags) for block in blocks for stage, flags in block.items() if stage in ("train", "fit_teacher")]
    assert len(told) == 3
    for stage, flags in told:
        known = {opt for p in commands()[stage].params for opt in (*p.opts, *p.secondary_opts)}
        assert {f"--{flag}" for flag in flags} <= known


@pytest.mark.parametrize("name", STAGES)
def test_the_fixed_flags_of_a_command_exist(name):
    known = {opt for p in commands()[name].params for opt in (*p.opts, *p.secondary_opts)}
    used = {word for word in shlex.split(str(STAGES[name]["cmd"])) if word.startswith("--")}
    assert used <= known, f"{name} has no {sorted(used - known)}"


@pytest.mark.parametrize("file", PARAMS)
def test_the_files_of_parameters_have_the_same_groups(file):
    params, default = (yaml.safe_load((ROOT / f).read_text(encoding="utf-8")) for f in (file, "params.yaml"))
    assert params.keys() == default.keys()
    assert "lr" in params["train"], "which the pages recommend to change (dvc exp run -S changes what is there)"
    assert params["demo_images"] == {} or file in PAINTED, "nobody's own pictures are painted"
    assert all(params[group].keys() <= default[group].keys() for group in ("shards", *PARTS) if group != "demo_images")


@pytest.mark.parametrize("file", PARAMS)
def test_no_part_is_without_flags(file):
    """An empty part would be a stage with default flags, which nobody asked for."""
    params = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    assert all(params[group][part] for group in PARTS for part in params[group])
    assert {part["shards"] for part in params["teacher_logits"].values()} <= set(params["shards"].values())
    assert set(params["pack"]) | set(params["hold_out"]) == set(params["teacher_logits"])


@pytest.mark.parametrize("file", PARAMS)
def test_students_are_named_after_what_they_learn_from_and_their_seed(file):
    params = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    for name, flags in params["students"].items():
        assert name == f"{flags['distill']}-{flags['seed']}"
    assert set(params["tokens"]) <= set(params["students"])
    assert set(params["kinds"]) == {flags["distill"] for flags in params["students"].values()}


@pytest.mark.parametrize("file", PARAMS)
def test_labels_are_of_the_views_that_the_teacher_was_fitted_to(file):
    """With no epochs the weights are published ones, and taken as they are."""
    params = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    flags = {name for option in recipe_options_of(commands()["teacher_logits"]) for name in option} - {"--seed"}
    fitted, labelled = (
        {name: value for name, value in group.items() if f"--{name}" in flags}
        for group in (params["fit_teacher"], params["teacher_logits"]["train"])
    )
    assert params["fit_teacher"]["epochs"] == 0 or fitted == labelled


def recipe_options_of(command: click.Command) -> list[list[str]]:
    names = {"preset", *RECIPE_FLAGS}
    return [parameter.opts for parameter in command.params if parameter.name in names]


def test_students_without_a_teacher_have_as_many_updates_as_those_with_one():
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    pictures = params["demo_images"]["digits"]
    rows = {
        "stores/labelled.zarr": pictures["labelled"],
        "stores/train.zarr": pictures["labelled"] + pictures["unlabelled"],
    }
    batch = params["train"]["batch"]
    updates = {name: s["epochs"] * -(-rows[s["logits"]] // batch) for name, s in params["students"].items()}
    warm_up = {name: s["warmup-epochs"] * -(-rows[s["logits"]] // batch) for name, s in params["students"].items()}
    assert len(set(updates.values())) == 1 and len(set(warm_up.values())) == 1


def test_what_is_expensive_is_kept_when_its_stage_runs_again():
    kept = {
        str(path)
        for stage in STAGES.values()
        for out in stage["outs"]
        if isinstance(out, dict)
        for path, options in out.items()
        if options.get("persist")
    }
    assert {"data/demo_images", "data/${key}", "runs/teacher", "stores/${key}.zarr", "runs/${key}"} <= kept


if __name__ == "__main__":
    text = rewritten(GRAPH_TEXT)
    if "--write" in sys.argv:
        GRAPH.write_text(text, encoding="utf-8")
    print(text)
