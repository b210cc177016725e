"""Fuzz one parser.

    python -m tests.fuzz tar --seconds 600             with atheris, which looks at what each input reaches
    python -m tests.fuzz tar --seconds 60 --blind      without it: random mutations of sound inputs

Needs atheris, which is no dependency of the project. Put it anywhere and name the place:

    python -m uv pip install --target /some/folder atheris
    PYTHONPATH=/some/folder python -m tests.fuzz tar

An input that raises anything but the named errors is kept in tests/fuzz/corpus/TARGET/, where `make test` runs it ever
after. Exit status 1 if there was one (77 from atheris itself).
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import click
import numpy as np

try:
    import atheris
except ImportError:
    atheris = None

if atheris is None or "--blind" in sys.argv:
    from tests.fuzz import targets
else:
    with atheris.instrument_imports(include=["pipeline"]):
        from tests.fuzz import targets


@click.command()
@click.argument("target", type=click.Choice(list(targets.TARGETS)))
@click.option("--seconds", default=600, show_default=True, help="How long.")
@click.option("--blind", is_flag=True, help="Without atheris: random mutations.")
@click.option("--seed", default=0, show_default=True, help="Seed of the mutations.")
def main(target: str, seconds: int, blind: bool, seed: int) -> None:
    """Look for bytes that crash a parser."""
    logging.disable(logging.CRITICAL)
    if blind:
        sys.exit(_blindly(target, seconds, seed))
    if atheris is None:
        raise click.ClickException(
            "atheris is not installed. 'python -m uv pip install --target DIR atheris', then PYTHONPATH=DIR python -m "
            "tests.fuzz …; or --blind to do without."
        )
    _with_atheris(target, seconds, seed)


def keep(target: str, data: bytes) -> Path:
    """Put an input where the tests run it."""
    path = targets.CORPUS / target / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _blindly(target: str, seconds: int, seed: int) -> int:
    generator, known, count, crashes = np.random.default_rng(seed), targets.seeds(target), 0, 0
    end = time.monotonic() + seconds
    seen: set[str] = set()
    while time.monotonic() < end:
        data = known[int(generator.integers(len(known)))]
        for _ in range(int(generator.integers(1, 4))):
            data = targets.mutated(target, data, generator)
        count += 1
        try:
            targets.attempt(target, data)
        except Exception as error:
            where = "".join(traceback.format_exception(error)[-2:])
            if where not in seen:
                seen.add(where)
                crashes += 1
                click.echo(f"{keep(target, data)}: {where}")
    click.echo(f"{target}: {count:,} executions, {crashes} crashes")
    return 1 if crashes else 0


def _with_atheris(target: str, seconds: int, seed: int) -> None:
    def one(data: bytes) -> None:
        try:
            targets.attempt(target, data)
        except Exception:
            click.echo(f"kept: {keep(target, data)}", err=True)
            raise

    def mutate(data: bytes, most: int, number: int) -> bytes:
        generator = np.random.default_rng(number)
        if generator.random() < 0.5:
            return bytes(atheris.Mutate(data, most))
        return targets.mutated(target, data, generator)[:most]

    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(targets.seeds(target)):
            Path(folder, str(number)).write_bytes(data)
        line = [
            sys.argv[0],
            folder,
            f"-max_total_time={seconds}",
            f"-seed={seed + 1}",
            "-max_len=65536",
            "-rss_limit_mb=4096",
        ]
        os.chdir(folder)  # libFuzzer leaves its own copies of crashes in the folder that it runs in
        atheris.Setup([*line, "-print_final_stats=1"], one, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
