"""What is set aside is whole under one of two names at any moment, and is removed only when another is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.durable import aside
from pipeline.errors import StoreError, UserError
from tests.faults import Calls, in_child, wait_for


def made(path: Path, text: str, *, done: bool = True) -> Path:
    path.mkdir()
    (path / "work").write_text(text)
    if done:
        (path / "done").touch()
    return path


def keep_one(path: Path) -> None:
    aside.keep_one(
        path,
        finished=lambda place: (place / "done").exists(),
        remove=lambda place: aside.remove_files(place, ("work", "done")),
    )


def said(folder: Path) -> dict[str, str]:
    return {path.name: (path / "work").read_text() for path in sorted(folder.iterdir()) if (path / "work").exists()}


def test_the_newest_that_was_finished_is_the_generation_that_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "v1.2"
    for number, done in enumerate((True, True, False, False)):
        aside.put_aside(made(run, str(number), done=done), "Another seed.")
    made(run, "4")
    assert said(tmp_path) == {
        "v1.2": "4", "v1.2.previous": "0", "v1.2.previous-2": "1", "v1.2.previous-3": "2", "v1.2.previous-4": "3"
    }  # fmt: skip
    assert f"Another seed. {run} is set aside, not removed: {run}.previous (1 bytes)." in caplog.text
    keep_one(run)
    assert said(tmp_path) == {"v1.2": "4", "v1.2.previous": "1"}
    assert f"{run}.previous-3 is removed (1 bytes), since {run} is whole; {run}.previous-2 is kept" in caplog.text
    assert f"{run}.previous-2 is {run}.previous now" in caplog.text


def test_what_one_process_keeps_another_does_not_remove_by_the_name_that_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    for number in (0, 1):
        aside.put_aside(made(run, str(number)), "")
    made(run, "2")

    def after_another(folder: Path) -> str:
        monkeypatch.undo()
        assert wait_for(in_child(lambda: keep_one(run))) == 0
        return aside.size_text(folder)

    monkeypatch.setattr(aside, "size_text", after_another)
    keep_one(run)
    assert said(tmp_path) == {"run": "2", "run.previous": "1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.previous"]


def test_what_cannot_be_named_anew_stays_and_that_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "run"
    for number in (0, 1):
        aside.put_aside(made(run, str(number)), "")
    made(run, "2")
    with Calls(0, names=("replace",)).active():
        keep_one(run)
    assert said(tmp_path) == {"run": "2", "run.previous-2": "1"}
    assert f"what was set aside of {run} stays: cannot move {run}.previous-2: Input/output error" in caplog.text
    keep_one(run)
    assert said(tmp_path) == {"run": "2", "run.previous": "1"}


def test_one_that_is_alone_is_kept_whatever_it_is(tmp_path: Path) -> None:
    run = tmp_path / "run"
    aside.put_aside(made(run, "begun", done=False), "")
    made(run, "whole")
    keep_one(run)
    assert said(tmp_path) == {"run": "whole", "run.previous": "begun"}


def test_other_peoples_files_move_along_and_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "run"
    (made(run, "0") / "notes.txt").write_text("mine")
    for number in (1, 2):
        aside.put_aside(run, "")
        made(run, str(number))
    keep_one(run)
    assert said(tmp_path) == {"run": "2", "run.previous-2": "1"}
    assert [path.name for path in (tmp_path / "run.previous").iterdir()] == ["notes.txt"]
    caplog.clear()
    for number in (3, 4):
        aside.put_aside(run, "")
        made(run, str(number))
        keep_one(run)
    assert said(tmp_path) == {"run": "4", "run.previous-2": "3"}
    assert not any(f"{run}.previous is removed" in text for text in caplog.messages)


def test_folders_that_only_look_alike_are_left_alone(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "whole")
    for name in ("run.previous-x", "run.previous-", "other.previous", "run.previous-1234567", "xrun.previous"):
        made(tmp_path / name, name)
    (tmp_path / "run.previous-7").write_text("a file")
    assert aside.asides(run) == []
    assert [path.name for path in aside.asides(tmp_path / "nowhere" / "run")] == []


def test_the_folder_one_stands_in_and_one_with_other_folders_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(tmp_path / "run", "mine")
    (run / "inner").mkdir()
    with pytest.raises(UserError, match="also has the folder inner, and so is not moved"):
        aside.put_aside(run, "Why.", folders=("dvclive",))
    monkeypatch.chdir(run / "inner")
    with pytest.raises(UserError, match="is the folder that this is run in, or one around it, and stays"):
        aside.put_aside(run, "Why.")
    assert said(tmp_path) == {"run": "mine"}


def test_killed_or_failing_anywhere_it_is_there_under_one_of_the_names(tmp_path: Path) -> None:
    for at in range(3):
        for kill in (True, False):
            folder = tmp_path / f"{at} {kill}"
            folder.mkdir()
            run = made(folder / "run", "long")

            def work(run: Path = run, at: int = at, kill: bool = kill) -> None:
                with Calls(at, kill=kill).active():
                    aside.put_aside(run, "Why.")

            if kill:
                wait_for(in_child(work))
            elif at < 2:  # a rename, and a flush
                with pytest.raises(StoreError, match=r"cannot move .*run: Input/output error"):
                    work()
            assert list(said(folder).values()) == ["long"]
