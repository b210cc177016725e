"""Of each thing that two would do otherwise there is one way: who finds a second here has gone past the door."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("distill", "pipeline", "stages", "student")
SOURCES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def dotted(node: ast.AST) -> str:
    """`torch.cuda.is_available` of an expression of names, else nothing."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def launcher_words(tree: ast.Module) -> Iterator[str]:
    """Variables that a launcher sets, as texts of the code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            word = node.value
            if word in ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS") or (
                word.startswith(("LOCAL_", "MASTER_", "SLURM_", "TORCHELASTIC_")) and word.isupper()
            ):
                yield word


def names_used(tree: ast.Module) -> Iterator[str]:
    """Attributes and imported names, dotted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield dotted(node)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layouts(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls that lay JSON out for people, or write it into an open file."""
    for node in ast.walk(tree):
        name = dotted(node.func) if isinstance(node, ast.Call) else ""
        indented = name == "json.dumps" and any(word.arg in ("indent", None) for word in node.keywords)
        if name == "json.dump" or indented:
            yield node


def checksum_questions(tree: ast.Module) -> Iterator[ast.Compare]:
    """Comparisons of the stored checksums of views with others."""
    for node in ast.walk(tree):
        equal = isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Eq, ast.NotEq))
        if equal and any(re.search(r"\bcrc_B", dotted(part)) for part in ast.walk(node)):
            yield node


def who_uses(*names: str) -> set[str]:
    return {path for path, tree in SOURCES.items() if set(names_used(tree)) & set(names)}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('import os; os.environ.get("RANK", 0)', ["RANK"]),
        ('env["MASTER_PORT"]', ["MASTER_PORT"]),
        ('"the RANK of this process"', []),
    ],
)
def test_what_is_looked_for_is_found(text: str, found: list[str]) -> None:
    assert list(launcher_words(ast.parse(text))) == found
    assert set(names_used(ast.parse("import torch\ntorch.cuda.is_available()\nfrom torch import float16"))) >= {
        "torch.cuda.is_available", "torch.float16",
    }  # fmt: skip


def test_one_file_reads_what_a_launcher_says() -> None:
    assert {path for path, tree in SOURCES.items() if any(launcher_words(tree))} == {"pipeline/processes/world.py"}


def test_one_file_chooses_the_device_and_the_precision() -> None:
    door = {"pipeline/models/device.py"}
    described = {"pipeline/labelling/environment.py"}  # tells which card was there
    assert who_uses("torch.cuda.is_available", "torch.backends.mps.is_available") - described == door
    assert who_uses("torch.autocast", "torch.cuda.get_device_capability", "torch.cuda.is_bf16_supported") == door
    known = {"pipeline/models/weights.py"}  # which number formats a file of weights may have
    widened = {"student/learning/loss.py"}  # what is summed in single precision
    assert who_uses("torch.float16", "torch.bfloat16", "torch.half") - known - widened == door


def test_one_file_lays_out_json_results() -> None:
    assert len(list(layouts(ast.parse("json.dump(a, b); json.dumps(a, indent=2); json.dumps(a); pickle.dump(a)")))) == 2
    shown = {"stages/reporting/page.py"}  # in a page
    assert {path for path, tree in SOURCES.items() if any(layouts(tree))} - shown == {"pipeline/durable/file.py"}


def test_one_file_says_whether_a_view_is_the_one_that_was_labelled() -> None:
    assert len(list(checksum_questions(ast.parse("a = slot.crc_B != known_B\nb = int(crc_B[3]) == now")))) == 2
    kept = {  # pixels of a file, held to the checksums in or beside it; nothing is drawn
        "pipeline/inspection/audit.py", "student/run/kept_views.py",
    }  # fmt: skip
    door = {"pipeline/proofs/same_views.py"}
    assert {path for path, tree in SOURCES.items() if any(checksum_questions(tree))} - kept == door
    assert who_uses("pipeline.proofs.proof.apart") == door
    assert who_uses("pipeline.proofs.proof.TOLERANCE") == {
        "pipeline/rendering/drift.py",  # witnesses, by the pixels themselves
        "student/feed/feed.py",  # tells it
    }


def test_no_function_takes_the_flags_of_a_command_as_a_dictionary() -> None:
    """They arrive as frozen values (`pipeline.commands.gather`)."""
    found = {
        f"{path}:{node.name}"
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for arg in (*node.args.args, *node.args.kwonlyargs, node.args.kwarg)
        if arg is not None and arg.arg == "flags"
    }
    assert found == set()


def test_the_environment_is_read_where_it_is_told() -> None:
    """Each file that reads it, and what for; flags have their own way (`envvar`)."""
    assert who_uses("os.environ", "os.getenv", "os.putenv") == {
        "pipeline/processes/world.py",  # the launcher
        "pipeline/remote/cache_settings.py",  # the node's cache
        "pipeline/teacher/hub.py",  # timm's and the hub's own
        "student/run/loggers.py",  # the trackers' own
        "student/learning/engine.py",  # what cuBLAS reads
    }  # fmt: skip


def test_one_file_has_bytes_on_the_disk() -> None:
    """Where fsync alone is no promise, it knows what is. A node's cache has nothing that could not be fetched again."""
    assert who_uses("os.fsync", "os.fdatasync", "fcntl.F_FULLFSYNC") - {"pipeline/remote/cache.py"} == {
        "pipeline/durable/local.py"
    }


def written_in_place(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls that write a file under the name that it will have: a picture, or what is not handed to `write_with`."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    handed = {part for call in calls if dotted(call.func) == "write_with" for part in ast.walk(call)}
    for call in calls:
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        picture = method == "save" and any(isinstance(arg, ast.Constant) and arg.value == "PNG" for arg in call.args)
        if call not in handed and (method in ("write_text", "write_bytes") or picture):
            yield call


def test_one_file_writes_results_whole() -> None:
    found = ast.parse("path.write_text(a)\nsheet.save(path, 'PNG')\nwrite_with(out, lambda path: path.write_bytes(a))")
    assert len(list(written_in_place(found))) == 2
    others = {
        "pipeline/durable/writer_lock.py",  # what a writer says of itself, a courtesy
        "pipeline/remote/cache.py",  # could be fetched again
        "stages/demo_images.py",  # a folder that is not finished until its record says so
        "stages/reporting/gallery.py",  # in memory
    }
    assert {path for path, tree in SOURCES.items() if any(written_in_place(tree))} == others


def test_no_test_module_is_imported() -> None:
    """What several tests need lies beside them, so that a test can be changed without another one."""
    modules = sorted((ROOT / "tests").rglob("*.py"))
    assert len(modules) > 100
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests"):
                names = [*str(node.module).split("."), *(alias.name for alias in node.names)]
                assert not any(name.startswith("test_") for name in names), f"{path} imports {names}"
