"""A student and a store go to a hub and come back from there: the client's own protocol, a server on loopback."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner, Result
from PIL import Image

from pipeline.errors import StoreError
from pipeline.store.reader import StoreReader
from student.export import main as export
from student.push import main
from student.sharing import hub as sharing
from tests.saved_runs import NAMES, save_run
from tests.servers.hub import Hub, hub_server
from tests.small_students import arguments, make_store, same, train, weights
from tests.stores import tree

TOKEN = "hf_of_owner"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server(tmp_path / "hub") as found:
        found.accounts = {TOKEN: "owner"}
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}")  # noqa: E501  # fmt: skip
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


def push(place: Path, repository: str = "owner/name", *flags: str) -> Result:
    return CliRunner().invoke(main, [str(place), repository, *flags], catch_exceptions=False)


def exported(folder: Path, *flags: str) -> Path:
    if not (folder / "run").exists():
        save_run(folder / "run")
    out = folder / "export"
    line = ["--checkpoint", str(folder / "run"), "--out", str(out), *flags]
    assert CliRunner().invoke(export, line, catch_exceptions=False).exit_code == 0
    return out


def snippet(card: Path) -> str:
    return re.findall(r"^```python\n(.*?)^```", card.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[0]


def photo(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 60, 3), np.uint8)
    Image.fromarray(noise).save(folder / "photo.jpg")


def test_a_student_is_loaded_from_the_hub_as_its_card_says(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported(tmp_path)
    done = push(out)
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{hub.url}/owner/name (4 files)\n"
    assert [sorted(files) for files in hub.commits] == [
        ["README.md", "config.json", "model.safetensors", "preprocessing.json"]
    ]
    photo(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = snippet(hub.folder / "models/owner/name/README.md")
    assert 'create_model("hf-hub:owner/name"' in code
    exec(compile(code, "the card", "exec"), {})
    assert capsys.readouterr().out.split()[0] in NAMES
    theirs = timm.create_model("hf-hub:owner/name", pretrained=True).state_dict()
    assert same(theirs, timm.create_model(f"local-dir:{out}", pretrained=True).state_dict())


def test_pushed_again_it_sends_what_is_new_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    out, there = exported(tmp_path), hub.folder / "models/owner/name"
    assert push(out).exit_code == 0 and push(out).exit_code == 0
    assert len(hub.sent) == len(hub.commits) == 1
    exported(tmp_path, "--ema")
    assert push(out).exit_code == 0
    assert len(hub.sent) == 2 and sorted(hub.commits[1]) == ["README.md", "model.safetensors"]
    (there / "README.md").write_text((there / "README.md").read_text().replace("# ", "# My "))
    exported(tmp_path, "--head", "class")
    done = push(out)
    assert done.exit_code == 0 and "the README.md there was edited, and stays as it is" in done.stderr
    assert "# My " in (there / "README.md").read_text() and "model.safetensors" in hub.commits[2]


def test_a_store_that_was_pulled_trains_as_the_one_that_was_pushed(hub: Hub, tmp_path: Path) -> None:
    store = make_store(tmp_path, rows=60, keep="topk:3")
    done = push(store, "owner/labels", "--private")
    assert done.exit_code == 0, done.output
    card = (hub.folder / "datasets/owner/labels/README.md").read_text()
    assert done.stdout.startswith(f"{hub.url}/datasets/owner/labels (") and "hf download --repo-type dataset" in card
    manifest = StoreReader.open(store).manifest
    for fact in (manifest.teacher.name, manifest.index_digest, manifest.fingerprint(), 'labels: "topk:3"'):
        assert fact in card
    pulled = tmp_path / "labels"
    huggingface_hub.snapshot_download("owner/labels", repo_type="dataset", local_dir=pulled)
    assert tree(pulled / "store.zarr") == tree(store)
    for name, place in (("near", store), ("far", pulled / "store.zarr")):
        code, said = train(arguments(place, tmp_path / name, "--max-steps", "2"), tmp_path / f"{name}.txt")
        assert code == 0, said
    assert same(weights(tmp_path / "near"), weights(tmp_path / "far"))
    assert push(pulled / "store.zarr", "owner/labels").exit_code == 0 and len(hub.commits) == 1


def test_a_push_that_was_interrupted_goes_on_and_was_never_half_there(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, there = make_store(tmp_path, rows=60), hub.folder / "datasets/owner/name"
    hub.most_sent = 5
    done = push(store)
    assert done.exit_code == 1 and done.stderr.splitlines()[-1] == (
        f"error: {hub.url} does not let this token write to owner/name (403). Give a repository of its owner's, or a "
        "token that may write there."
    )
    assert list(there.iterdir()) == [] and hub.commits == [] and len(hub.sent) == 5
    hub.most_sent = None
    monkeypatch.setattr(sharing, "COMMIT_FILES", 20)  # as if it were a store of many thousands
    for hub.most_commits in (1, 3):
        assert push(store).exit_code == 1
        with pytest.raises(StoreError, match=r"has no COMPLETE|is not finished"):
            StoreReader.open(there / "store.zarr")
    hub.most_commits = None
    assert push(store).exit_code == 0
    assert tree(there / "store.zarr") == tree(store)
    assert len(set(hub.sent)) == len(hub.sent), "nothing is sent twice"
    assert sorted(hub.commits[-1]) == ["README.md", "store.zarr/COMPLETE"]
    shutil.rmtree(store)
    other = make_store(tmp_path, rows=60, views=1)
    before = len(hub.commits)
    assert push(other).exit_code == 0 and tree(there / "store.zarr") == tree(other)
    assert hub.commits[before][:2] == ["store.zarr/COMPLETE", "README.md"], "what made it whole goes first"
    assert sorted(hub.commits[-1]) == ["README.md", "store.zarr/COMPLETE"]


def test_what_others_keep_in_a_repository_stays(hub: Hub, tmp_path: Path) -> None:
    out, there = exported(tmp_path), hub.folder / "models/owner/name"
    there.mkdir(parents=True)
    for name in ("thesis.tex", "README.md", "model.safetensors"):
        (there / name).write_text("mine")
        done = push(out)
        assert done.exit_code == 1 and done.stderr.splitlines()[-1] == (
            f"error: owner/name holds {name}, which no push has brought, and stays as it is. Name another repository."
        )
        (there / name).unlink()
    (there / ".gitattributes").write_text("*.safetensors filter=lfs")
    assert push(out).exit_code == 0


def test_what_cannot_be_is_told_in_one_line(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, store = exported(tmp_path), make_store(tmp_path, rows=40)

    def refused(place: Path, repository: str = "owner/name") -> str:
        done = push(place, repository)
        assert done.exit_code == 1
        return done.stderr.splitlines()[-1].removeprefix("error: ")

    assert refused(tmp_path / "run").endswith("and this is a run, and is exported first (student.export).")
    assert refused(tmp_path).endswith("a finished store can be pushed, and this is neither.")
    assert refused(out, "other/name") == (
        f"{hub.url} does not let this token write to other/name (403). Give a repository of its owner's, or a token "
        "that may write there."
    )
    assert refused(out, "a name/with spaces").startswith("'a name/with spaces' is no name of a repository: ")
    some = next(store.glob("logits/c.*"))
    some.write_bytes(some.read_bytes()[:-1] + b"?")
    assert refused(store).startswith(f"{store} is damaged, and would be so there: {some}: (unit view ")
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    assert (
        refused(out) == f"{hub.url} does not know the token (401). Log in again with `hf auth login`, or set HF_TOKEN."
    )
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert refused(out).endswith("there is no token. Log in with `hf auth login`, or set HF_TOKEN.")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nobody)
        said = refused(out)
    assert said.startswith(f"{nobody} does not answer as it should (ConnectError: ") and said.endswith(
        "What was sent is kept: run the same command again."
    )
    assert hub.commits == []


def test_the_two_cards_are_read_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in an export's card is run in its folder, for both formats."""
    out = exported(tmp_path)
    exported(tmp_path, "--format", "onnx")
    photo(out)
    monkeypatch.chdir(out)
    codes = re.findall(r"^```python\n(.*?)^```", (out / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    found = []
    for code in codes:
        names: dict[str, object] = {}
        exec(compile(code, "the card", "exec"), names)
        found.append(torch.as_tensor(names["chances"] if "chances" in names else names["logits"]).argmax().item())
    assert len(codes) == 2 and found[0] == found[1]
