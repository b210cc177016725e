"""What all commands share."""

import click
import pytest
from click.testing import CliRunner

from pipeline import cli


@pytest.mark.parametrize(
    ("arguments", "env", "expected"),
    [
        ([], {}, max(1, cli.default_workers() // 4)),
        (["--workers", "3"], {}, 3),
        ([], {"DISTILL_WORKERS": "5"}, 5),
        (["--workers", "0"], {}, 0),
    ],
)
def test_ranks_of_a_node_share_its_cores_unless_told_otherwise(arguments, env, expected):
    @cli.command()
    @cli.workers_option
    def main(workers):
        click.echo(cli.share_workers(workers, 4))

    assert int(CliRunner().invoke(main, arguments, env=env).output) == expected
