"""A command run in this process, as `CliRunner` does it, that must end as expected."""

from __future__ import annotations

from click.testing import CliRunner


def run(command, *args, expect=0):
    result = CliRunner().invoke(command, [str(a) for a in (*args, "--log-level", "error")])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == expect, result.output
    return result.output
