"""``student.train`` as its users meet it: run, stop, kill, move, resume, refuse."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pipeline.progress import CLEAR
from student.feed.feed import Step
from student.run import loop
from student.status import main as student_status
from tests.many_ranks import eventually
from tests.small_students import PATIENCE_S, arguments, make_store, rank_env, record, same, start, train, weights
from tests.terminal import screen, terminal

STEPS = 6  # 2 epochs of 100 rows in batches of at most 34


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def store(folder: Path) -> Path:
    return make_store(folder)


@pytest.fixture(scope="module")
def whole(folder: Path, store: Path) -> Path:
    """An uninterrupted run, with everything on that has state."""
    code, said = train(line(store, folder / "whole"), folder / "whole.txt")
    assert code == 0, said
    return folder / "whole"


def line(store: Path, out: Path, *more: str) -> list[str]:
    val = str(store.parent / "data/000000.tar")
    return arguments(store, out, "--ema", "--ema-decay", "0.9", "--clip-grad", "1", "--val-shards", val, *more)


def test_a_run_leaves_what_it_promises(whole: Path, store: Path) -> None:
    said = whole.with_suffix(".rank0").read_text()
    assert said.splitlines()[-1] == f"{whole}/last.pt"
    assert "all 100 witness views are identical" in said and f"step {STEPS}/{STEPS} | loss " in said
    assert {"last.pt", "previous.pt", "best.pt", "metrics.jsonl"} <= {path.name for path in whole.iterdir()}
    state = torch.load(whole / "last.pt", weights_only=True)
    assert (state["epoch"], state["step"]) == (2, 0)
    assert state["meta"]["teacher"] == "test_teacher" and state["meta"]["settings"]["views"] == 2
    lines = record(whole)
    assert [entry["update"] for entry in lines if entry["kind"] == "steps"] == [2, 4, 6]
    epochs = [entry for entry in lines if entry["kind"] == "epoch"]
    assert [entry["epoch"] for entry in epochs] == [0, 1]
    assert {"loss", "loss_class", "loss_distillation", "lr", "top1", "top1_class", "ema_top1"} <= epochs[-1].keys()
    best = max(max(entry["top1"], entry["ema_top1"]) for entry in epochs)
    assert state["best"] == best and "optimizer" not in torch.load(whole / "best.pt", weights_only=True)


@pytest.mark.parametrize("columns", [40, 60])
def test_a_terminal_is_told_of_every_step_in_a_line_that_fits(columns: int, folder: Path, store: Path) -> None:
    """Between two records, too, which are far apart here; and what is recorded does not depend on who looks on."""
    shown, unseen = folder / f"shown-{columns}", folder / f"unseen-{columns}"
    sizes = ("--batch", "4", "--depth", "12")  # no epoch is faster than a line is drawn
    flags = ("--epochs", "6", "--log-every", "75", "--val-every", "3", *sizes)
    with terminal(["-m", "student.train", *line(store, shown, *flags)], columns=columns) as window:
        written = window.read().decode()
    assert window.status == 0, written
    drawn = [part.rstrip("\r\n") for part in written.split(CLEAR)[1:]]
    steps = [part for part in drawn if part.startswith("step ")]
    assert len({part[:10] for part in steps}) > 2, "150 steps, two of them recorded"
    assert all(" | loss " in part and " | eta " in part for part in steps)
    assert max(len(part) for part in steps) < columns and all(("img/s" in part) is (columns == 60) for part in steps)
    lines = [text.rstrip() for text in screen(written.encode(), columns)]
    epochs = [text for text in lines if text.startswith("epoch ")]
    assert [text.split(" | ")[0] for text in epochs] == [f"epoch {number}" for number in range(1, 7)]
    assert all(
        len(text) < columns and (" | top1 0." in text) is (number in (3, 6)) for number, text in enumerate(epochs, 1)
    )
    assert train(line(store, unseen, *flags), folder / "unseen.txt")[0] == 0
    assert record(unseen) == record(shown)


def test_a_student_learns(folder: Path, store: Path) -> None:
    out = folder / "learns"
    assert train(line(store, out, "--epochs", "12", "--lr", "0.02"), folder / "learns.txt")[0] == 0
    epochs = [entry for entry in record(out) if entry["kind"] == "epoch"]
    for name in ("loss", "loss_class", "loss_distillation"):
        assert epochs[-1][name] < 0.98 * epochs[0][name]


def test_a_finished_run_says_so_at_once(whole: Path, store: Path, folder: Path) -> None:
    before = weights(whole)
    code, said = train(line(store, whole), folder / "again.txt")
    assert (code, said.splitlines()[-1]) == (0, f"finished before: {whole}/last.pt")
    assert same(weights(whole), before)


def test_a_run_begun_otherwise_is_begun_again_only_when_that_is_asked_for(
    whole: Path, store: Path, folder: Path
) -> None:
    out = folder / "otherwise"
    assert train(line(store, out, "--alpha", "0.3", "--max-steps", "2"), folder / "otherwise.txt")[0] == 0
    code, said = train(line(store, out), folder / "otherwise.txt")
    assert code == 1 and "--alpha 0.3 then, 0.5 now" in said
    code, said = train(line(store, out, "--if-changed", "restart"), folder / "otherwise.txt")
    assert code == 0 and "--alpha 0.3 then, 0.5 now" in said
    assert same(weights(out), weights(whole)) and record(out) == record(whole)
    assert torch.load(folder / "otherwise.previous/last.pt", weights_only=True)["meta"]["settings"]["alpha"] == 0.3
    assert f"{out} is set aside, not removed: {out}.previous (" in said


@pytest.mark.parametrize("steps", range(1, STEPS))
def test_resume_at_every_step(whole: Path, store: Path, folder: Path, steps: int) -> None:
    out = folder / f"cut{steps}"
    assert train(line(store, out, "--max-steps", str(steps)), folder / "first.txt")[0] == 0
    assert torch.load(out / "last.pt", weights_only=True)["step"] == steps % 3
    code, said = train(line(store, out), folder / "second.txt")
    assert code == 0, said
    assert same(weights(out), weights(whole)) and record(out) == record(whole)


def test_killed_at_any_moment(whole: Path, store: Path, folder: Path) -> None:
    """SIGKILL after the first checkpoint, then at random times until the run gets through: each checkpoint is whole."""
    out, output, draw = folder / "killed", folder / "killed.txt", np.random.default_rng(5)
    arguments = line(store, out, "--checkpoint-every", "1", "--workers", "1")
    process = start(arguments, output)
    await_file(out / "last.pt")
    for _ in range(10):
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        whole_ones = [path for path in (out / "last.pt", out / "previous.pt") if path.exists()]
        assert whole_ones and [torch.load(path, weights_only=True) for path in whole_ones]
        process = start(arguments, output)
        process.join(draw.uniform(0.05, 0.4))
        if process.exitcode is not None:
            break
    process.join(PATIENCE_S)
    assert process.exitcode == 0, output.read_text()
    assert same(weights(out), weights(whole)) and record(out) == record(whole)


@pytest.mark.parametrize(
    ("number", "code", "resume", "again"),
    [
        (signal.SIGTERM, 143, (), "the same command"),
        (signal.SIGINT, 130, ("--resume", "none"), "the same command without --resume"),
    ],
)
def test_a_signal_ends_in_a_checkpoint(
    whole: Path, store: Path, folder: Path, number: int, code: int, resume: tuple[str, ...], again: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out, output = folder / f"signal{code}", folder / "signal.txt"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "learn", not_before_a_signal)
        process = start(line(store, out, "--log-every", "1", *resume), output)
    await_first_step(output)
    os.kill(process.pid or 0, number)
    process.join(PATIENCE_S)
    assert process.exitcode == code, output.read_text()
    state = torch.load(out / "last.pt", weights_only=True)
    where = f"epoch {state['epoch']}, step {state['step']}"
    assert output.read_text().splitlines()[-1] == f"stopped in {where}; {again} goes on from {out}/last.pt"
    assert train(line(store, out, "--log-every", "1"), output)[0] == 0
    assert same(weights(out), weights(whole))


def test_a_run_that_went_on_from_a_state_in_its_own_folder_says_how_it_goes_on(
    whole: Path, store: Path, folder: Path
) -> None:
    """That state is set aside with the run that it was of, so the same command is not the one."""
    out, output = folder / "rewound", folder / "rewound.txt"
    assert train(line(store, out, "--checkpoint-every", "1", "--max-steps", "3"), output)[0] == 0
    again = line(store, out, "--checkpoint-every", "1", "--resume", str(out / "previous.pt"), "--max-steps", "1")
    assert train(again, output)[0] == 0
    code, said = train(again, output)
    assert code == 1 and f"{out}.previous/previous.pt is the newest. Leave --resume out: the run goes on." in said
    (out / "last.pt").rename(out / "not yet written")
    code, said = train(again, output)
    assert code == 1 and f"Give --resume {out}.previous/previous.pt." in said
    (out / "not yet written").rename(out / "last.pt")
    assert train(line(store, out), output)[0] == 0
    assert same(weights(out), weights(whole))


def test_what_is_left_of_a_run_is_never_written_over_in_silence(whole: Path, store: Path, folder: Path) -> None:
    """Its best weights without a state to go on from; a state that is damaged; and a fit that is under way."""
    out, short = folder / "left", ("--epochs", "1", "--max-steps", "1")
    shutil.copytree(whole, out)
    for name in ("last.pt", "previous.pt"):
        (out / name).unlink()
    kept = (out / "best.pt").read_bytes()
    code, said = train(line(store, out, *short), folder / "left.txt")
    assert code == 0 and f"{out} has a best.pt and no last.pt to go on from, so it begins again." in said, said
    assert (folder / "left.previous/best.pt").read_bytes() == kept
    for damaged in (b"cut", (folder / "left.previous/best.pt").read_bytes()[:1000]):
        other = folder / f"damaged-{len(damaged)}"
        other.mkdir()
        (other / "last.pt").write_bytes(damaged)
        code, said = train(line(store, other, *short), folder / "damaged.txt")
        assert code == 1 and "Give another --out; or --resume none" in said, said
        assert (other / "last.pt").read_bytes() == damaged


def test_a_state_that_is_named_is_the_one_that_is_blamed(whole: Path, store: Path, folder: Path) -> None:
    out = folder / "named"
    code, said = train(line(store, out, "--alpha", "0.3", "--resume", str(whole / "last.pt")), folder / "named.txt")
    assert code == 1 and f"{whole}/last.pt was begun" in said and f"{out} was begun" not in said, said


def test_a_run_that_failed_says_so_afterwards(store: Path, folder: Path) -> None:
    out = folder / "failed"
    flags = ("--lr", "1e9", "--lr-absolute", "--epochs", "20", "--precision", "fp32", "--clip-grad", "1e9")
    code, said = train(line(store, out, *flags), folder / "failed.txt")
    assert code == 1 and "Lower --lr, or give --clip-grad 1, in a new run." in said, said
    status = CliRunner().invoke(student_status, [str(out)])
    assert status.exit_code == 0 and status.output.startswith("run      failed\n"), status.output
    assert "why      The loss of epoch" in status.output


@pytest.mark.parametrize("workers", ["1", "3"])
def test_workers_change_nothing(whole: Path, store: Path, folder: Path, workers: str) -> None:
    out = folder / "workers"
    code, said = train(line(store, out, "--resume", "none", "--workers", workers), folder / "workers.txt")
    assert code == 0, said
    assert same(weights(out), weights(whole)) and record(out) == record(whole)


def test_ranks_begin_again_from_the_run_that_is_set_aside(folder: Path, store: Path) -> None:
    out = folder / "from-itself"
    assert train(line(store, out, "--max-steps", "1"), folder / "first.txt")[0] == 0
    first = weights(out)
    more = ("--resume", "none", "--init", str(out / "last.pt"))
    code, said = train(line(store, out, *more), folder / "second.txt", ranks=2)
    assert code == 0, said
    assert same(weights(folder / "from-itself.previous"), first) and f"{out} is set aside, not removed" in said


def await_file(path: Path) -> None:
    """Until the file is there."""
    eventually(path.exists)


def await_first_step(output: Path) -> None:
    """Until the run has written its first line about a step."""
    eventually(lambda: output.exists() and " | loss " in output.read_text())


def not_before_a_signal(run: loop.Run, step: Step, learn: Callable[[loop.Run, Step], None] = loop.learn) -> None:
    """No step but the first is begun before a signal has come: it cannot come too late, however few there are."""
    if run.update:
        eventually(lambda: run.stop.signal != 0)
    learn(run, step)


def close(left: Path, right: Path) -> bool:
    """Equal losses, step by step, up to the order in which sums are taken."""
    losses = [[entry["loss"] for entry in record(run) if entry["kind"] == "steps"] for run in (left, right)]
    return bool(np.allclose(*losses, rtol=1e-5, atol=0))


def test_another_number_of_ranks(folder: Path, store: Path) -> None:
    """One rank, then two, then three: the same global batches, hence the same losses."""
    more = ("--log-every", "1", "--lr", "1e-3")
    assert train(line(store, folder / "one", *more), folder / "one.txt")[0] == 0
    out = folder / "moved"
    for ranks, steps in ((1, 2), (2, 4), (3, 6)):
        code, said = train(line(store, out, *more, "--max-steps", str(steps)), folder / "moved.txt", ranks=ranks)
        assert code == 0, said
    assert close(out, folder / "one")


def test_micro_batches_are_the_same_step(folder: Path, store: Path) -> None:
    more = ("--log-every", "1", "--lr", "1e-3", "--max-steps", "4")
    for out, accumulate in ((folder / "at_once", "1"), (folder / "in_parts", "3")):
        assert train(line(store, out, *more, "--accumulate", accumulate), folder / "parts.txt")[0] == 0
    assert close(folder / "at_once", folder / "in_parts")


def test_ranks_are_resumed_bit_by_bit(folder: Path, store: Path) -> None:
    for out, steps in ((folder / "two", "6"), (folder / "two_cut", "2"), (folder / "two_cut", "6")):
        code, said = train(line(store, out, "--max-steps", steps), folder / "two.txt", ranks=2)
        assert code == 0, said
    assert same(weights(folder / "two"), weights(folder / "two_cut"))


def test_a_stop_is_agreed_by_all_ranks(folder: Path, store: Path) -> None:
    out, outputs = folder / "agreed", [folder / f"agreed{rank}.txt" for rank in range(2)]
    more = ("--epochs", "500", "--warmup-epochs", "0", "--log-every", "1")
    processes = [start(line(store, out, *more), outputs[rank], env) for rank, env in enumerate(rank_env(2))]
    await_first_step(outputs[0])
    os.kill(processes[1].pid or 0, signal.SIGTERM)  # rank 1 alone
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in processes] == [143, 143]
    assert (out / "last.pt").exists()


def test_a_lost_rank_ends_the_run_within_its_time_out(folder: Path, store: Path) -> None:
    out, outputs = folder / "lost", [folder / f"lost{rank}.txt" for rank in range(2)]
    more = ("--epochs", "500", "--warmup-epochs", "0", "--log-every", "1", "--timeout", "5", "--checkpoint-every", "1")
    processes = [start(line(store, out, *more), outputs[rank], env) for rank, env in enumerate(rank_env(2))]
    await_first_step(outputs[0])
    os.kill(processes[1].pid or 0, signal.SIGKILL)
    processes[0].join(PATIENCE_S)
    assert processes[0].exitcode == 1, outputs[0].read_text()
    assert "error: Rank 0 of 2 lost the others (time-out 5 s)" in outputs[0].read_text()
    torch.load(out / "last.pt", weights_only=True)
