"""What a flag's type says of a place, and that every command asks its flags."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from distill.commands import COMMANDS
from pipeline.commands.command import command
from pipeline.commands.places import SHARDS, CacheFolder, InputPath, OutputFolder, OutputStore, ResultFile, UrlOrPath


@command()
@click.option("--shards", type=SHARDS, multiple=True)
@click.option("--weights", type=InputPath())
@click.option("--folder", type=OutputFolder())
@click.option("--cache", type=CacheFolder())
@click.option("--store", type=OutputStore("text"))
@click.option("--figure", "shown", type=ResultFile(".png"))
@click.option("--table", type=ResultFile())
def copy(**given: object) -> None:
    """Take places of all kinds."""
    click.echo(f"taken {sum(value not in (None, ()) for value in given.values())}")


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("--shards s3://b/{0..3}.tar --shards x.tar --store s3://b/x.zarr --table t.csv", 0, "taken 3"),
        ("--weights s3://b/w.pt", 2, "--weights takes a path on this machine, and s3:/b/w.pt looks like a URL"),
        ("--figure s3://b/f.png", 2, "--figure takes a path on this machine, and s3:/b/f.png looks like a URL"),
        ("--folder=", 2, "'--folder': '' names no file or folder"),
        ("--weights=", 2, "'--weights': '' names no file or folder"),
        (
            "--cache old.zarr",
            1,
            "--cache old.zarr lies in old.zarr, which is a Zarr store. Choose a place outside of it.",
        ),
        ("--cache old.zarr/a", 1, "old.zarr, which is a Zarr store. Choose a place outside of it."),
        ("--store new.zarr --cache new.zarr", 1, "new.zarr, which is a Zarr store. Choose a place outside of it."),
        ("--cache a/b --folder a", 0, "taken 2"),
        ("--folder /", 2, "--folder '/' names no file or folder of its own"),
        ("--store /", 2, "--store '/' names no file or folder of its own"),
        ("--store old.zarr/new.zarr", 1, "old.zarr, which is a Zarr store. Choose a place outside of it."),
        ("--store labels --table labels/t.csv", 1, "labels, which is a Zarr store. Choose a place outside of it."),
        ("--folder old.zarr/a", 1, "old.zarr, which is a Zarr store. Choose a place outside of it."),
        ("--table data.tar", 1, "--table data.tar is there, and is no result that may be replaced. Name another file."),
        ("--table pack.json", 1, "--table pack.json is there, and is no result that may be replaced."),
        ("--table old.csv --figure new.png", 0, "taken 2"),
        ("--figure new.svg", 1, "--figure new.svg ends in '.svg'; it can be written as .png."),
    ],
)
def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, status: int, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.commands.places.settle_start_method", lambda *_: None)  # holds for the whole process
    Path("old.zarr").mkdir()
    for name in ("old.zarr/zarr.json", "data.tar", "pack.json", "old.csv"):
        Path(name).write_text("{}")
    result = CliRunner().invoke(copy, line.split())
    assert result.exit_code == status and said in result.output, result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_each_flag_of_each_command_says_what_kind_of_place_it_names(name: str) -> None:
    module, attribute = COMMANDS[name][0].split(":")
    params = {param.name: param.type for param in getattr(import_module(module), attribute).params}
    plain = [name for name, kind in params.items() if isinstance(kind, click.Path) and not isinstance(kind, InputPath)]
    assert plain == [], "take a type of pipeline.commands.places"
    urls = {name for name in ("shards", "val_shards", "logits", "val_logits") if name in params}
    assert {name for name in urls if not isinstance(params[name], UrlOrPath)} == set()
    assert "out" not in params or isinstance(params["out"], OutputFolder | OutputStore)
