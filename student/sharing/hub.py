"""How does a parcel get to the Hugging Face Hub so that nobody ever finds half of it?

    create the repository → send what is large, a few files at a time → one commit with everything

What was sent and not committed is seen by nobody, and is not sent again by the next attempt: the hub knows large files
by their content. A parcel of more files than a commit may have takes several; then the files that make it whole (a
store's COMPLETE, the card) are in the last one, and a first one takes away those of what was there before.

A repository in which others keep other things is left alone. What goes wrong is told in one line.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils.tqdm import disable_progress_bars

from pipeline.errors import UserError, first_line
from pipeline.progress import Progress
from student.exporting.model_card import CARD, SEAL, is_ours
from student.sharing.parcel import Parcel

AT_ONCE = 64
"""Files that are sent between two looks at the progress."""
COMMIT_FILES = 4000
"""Most files of one commit."""
NOT_OURS = (".gitattributes",)
"""What the hub itself puts into a repository."""

T = TypeVar("T")

log = logging.getLogger(__name__)


def push(parcel: Parcel, repository: str, *, private: bool) -> str:
    """Put a parcel into a repository, which is made if it is not there; its address."""
    if huggingface_hub.get_token() is None:
        raise UserError("The hub takes files from those that it knows, and there is no token. Log in with "
                        "`hf auth login`, or set HF_TOKEN.")  # fmt: skip
    disable_progress_bars()  # one line of ours says more
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    api = HfApi()
    where: dict[str, Any] = {"repo_id": repository, "repo_type": parcel.kind}
    with _told(repository, api.endpoint):
        url = str(api.create_repo(**where, private=private, exist_ok=True))
        there = {entry.path for entry in api.list_repo_tree(**where, recursive=True) if hasattr(entry, "size")}
        parcel = _keep_edited_card(api, where, there, parcel)
        added = _sent(api, where, parcel)
        gone = [name for name in sorted(there) if parcel.owns(name) and name not in parcel.files]
        _commit(api, where, parcel, added, gone, there)
    return url


def _keep_edited_card(api: HfApi, where: Mapping[str, Any], there: set[str], parcel: Parcel) -> Parcel:
    """The parcel for a repository that holds nothing, or an earlier parcel; whatever else it holds is left alone.

    An earlier one has its card there, or, where several commits were interrupted, nothing that makes it whole. A card
    that somebody has edited there stays as it is.
    """
    theirs = there - set(NOT_OURS)
    foreign = sorted(name for name in theirs if not parcel.owns(name) and name != CARD)
    card = Path(api.hf_hub_download(**where, filename=CARD)) if CARD in theirs and not foreign else None
    marked = card is not None and SEAL in card.read_text(encoding="utf-8", errors="replace")
    begun = card is None and parcel.kind == "dataset" and not theirs & set(parcel.last)
    if theirs and (foreign or not (marked or begun)):
        raise UserError(
            f"{where['repo_id']} holds {(foreign or sorted(theirs))[0]}, which no push has brought, and stays as it "
            "is. Name another repository."
        )
    if card is None or is_ours(card):
        return parcel
    log.warning("the %s there was edited, and stays as it is", CARD)
    return parcel.without(CARD)


def _sent(api: HfApi, where: Mapping[str, Any], parcel: Parcel) -> dict[str, CommitOperationAdd]:
    """Every file on its way: large ones are there already, small ones go with the commit."""
    added = {name: CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in parcel.files.items()}
    with Progress("push", len(added), "files") as progress:
        for some in _cut(added.values(), AT_ONCE):
            api.preupload_lfs_files(**where, additions=some)
            progress.advance(len(some))
    return added


def _commit(
    api: HfApi, where: Mapping[str, Any], parcel: Parcel, added: Mapping[str, CommitOperationAdd], gone: list[str],
    there: set[str],
) -> None:  # fmt: skip
    operations: list[Any] = [CommitOperationDelete(name) for name in gone]
    early = [operation for name, operation in added.items() if name not in parcel.last]
    last = [added[name] for name in parcel.last]
    message = f"{parcel.title}, by distill push"
    if len(operations) + len(added) <= COMMIT_FILES:
        api.create_commit(**where, operations=[*operations, *early, *last], commit_message=message)
        return
    operations = [CommitOperationDelete(name) for name in parcel.last if name in there] + operations
    parts = [*_cut(operations, COMMIT_FILES), *_cut(early, COMMIT_FILES), last]
    for number, part in enumerate(parts, start=1):
        api.create_commit(**where, operations=part, commit_message=f"{message} ({number} of {len(parts)})")


def _cut(items: Iterable[T], size: int) -> list[list[T]]:
    whole = list(items)
    return [whole[at : at + size] for at in range(0, len(whole), size)]


@contextlib.contextmanager
def _told(repository: str, endpoint: str) -> Iterator[None]:
    """What the hub or the way there says, in one line."""
    try:
        yield
    except UserError:
        raise
    except HFValidationError as error:
        raise UserError(f"{repository!r} is no name of a repository: {first_line(error)} Give OWNER/NAME.") from error
    except HfHubHTTPError as error:
        raise UserError(_refusal(repository, endpoint, error)) from error
    except OSError:
        raise
    except Exception as error:  # of whichever library carries the client's requests
        cause = error.__cause__ if isinstance(error.__cause__, HfHubHTTPError) else None
        if cause is not None:
            raise UserError(_refusal(repository, endpoint, cause)) from error
        raise UserError(
            f"{endpoint} does not answer as it should ({type(error).__name__}: {first_line(error)}). What was sent "
            "is kept: run the same command again."
        ) from error


def _refusal(repository: str, endpoint: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status == 401:
        return f"{endpoint} does not know the token (401). Log in again with `hf auth login`, or set HF_TOKEN."
    if status == 403:
        return (
            f"{endpoint} does not let this token write to {repository} (403). Give a repository of its owner's, or a "
            "token that may write there."
        )
    said = error.server_message or first_line(error)
    return f"{endpoint} refuses {repository} ({status}: {said}). Nothing of it can be seen there."
