"""What lies in the folder that shards are to be packed into?"""

from __future__ import annotations

from pathlib import Path

from pipeline.durable import aside
from pipeline.durable.folder import LOCK
from pipeline.errors import ShardError
from pipeline.shards.sidecars import CLASSES_FILE, PACK_FILE, read_pack

REJECTED_FILE = "rejected.csv"


def is_finished(out: Path) -> bool:
    """Whether shards were packed here; a folder with anything else in it is refused."""
    try:
        names = sorted(path.name for path in out.iterdir() if path.name != LOCK)
    except FileNotFoundError:  # also behind a link, whose folder was set aside
        return False
    except NotADirectoryError:
        raise ShardError(f"{out} is not a folder. Name a new folder by --out.") from None
    if names and PACK_FILE not in names:
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise ShardError(
            f"{out} holds {len(names)} files that pack did not write ({shown}). Name a new folder by --out."
        )
    return bool(names)


def remove_shards(out: Path) -> None:
    """The shards of a folder and what stands beside them; other people's files stay, and the folder with them."""
    shards = [shard.name for shard in read_pack(out).shards if Path(shard.name).name == shard.name]
    aside.remove_files(out, (*shards, CLASSES_FILE, REJECTED_FILE, PACK_FILE))
