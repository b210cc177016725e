"""What all commands share."""

import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipeline.commands.cache_flags import cache_options
from pipeline.commands.command import command
from pipeline.commands.outputs import beside, require_writable
from pipeline.commands.speed_flags import speed_options
from pipeline.errors import UserError
from pipeline.processes.machine import granted_cores
from pipeline.remote.cache_settings import current


@pytest.mark.parametrize(
    ("arguments", "env", "expected"),
    [
        ([], {}, max(1, granted_cores() // 4)),
        (["--workers", "3"], {}, 3),
        ([], {"DISTILL_WORKERS": "5"}, 5),
        (["--workers", "0"], {}, 0),
    ],
)
def test_ranks_of_a_node_share_its_cores_unless_told_otherwise(arguments, env, expected):
    @command()
    @speed_options
    def main(speed):
        click.echo(speed.shared_by(4).workers)

    assert int(CliRunner().invoke(main, arguments, env=env).output) == expected


def test_the_cache_is_that_of_the_flags_for_this_command_alone(tmp_path, monkeypatch):
    @command()
    @cache_options
    def main():
        click.echo(current())

    monkeypatch.setenv("DISTILL_CACHE_DIR", str(tmp_path / "env"))
    before = dict(os.environ)
    said = CliRunner().invoke(main, ["--cache-dir", "near", "--cache-size", "3K"]).output
    assert said == "CacheSettings(folder='near', limit=3000)\n"
    assert CliRunner().invoke(main).output == f"CacheSettings(folder='{tmp_path}/env', limit={64 << 30})\n"
    result = CliRunner().invoke(main, ["--cache-size", "large"])
    assert result.exit_code == 2 and "--cache-size 'large' is no size. Give bytes" in result.output
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("out", "path"),
    [
        ("store.zarr", "store.summary.json"),
        ("stores/v1.2", "stores/v1.2.summary.json"),
        ("stores/v1.3/", "stores/v1.3.summary.json"),
        ("a.b/run.1.json", "a.b/run.1.summary.json"),
        ("s3://bucket/far/store.zarr", "store.summary.json"),
        ("s3://bucket/far/v1.2", "v1.2.summary.json"),
    ],
)
def test_a_result_beside_a_store_has_the_stores_whole_name(out, path):
    assert beside(out, ".summary.json") == Path(path)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    require_writable(tmp_path / "new" / "folder" / "a.json", "--summary")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    for path, why in ((tmp_path / "file" / "a.json", "File exists"), (tmp_path / "new", "Is a directory")):
        with pytest.raises(UserError) as error:
            require_writable(path, "--summary")
        assert str(error.value) == f"cannot write {path}: {why}. Give another --summary."
