"""Does anything that comes from outside ever run, or take the machine's memory?

Each case is a file that somebody made on purpose, given to the command or the function that reads such files, in a
process of its own. An audit hook in it (which Python does not let anybody take away) writes down every start of a
program, every look-up of a pickled global, every connection; a payload that runs leaves a file. The process must stay
under 1 GiB, and end in a clear error, or in nothing at all where the odd thing is not for us to read.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import resource
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import google_crc32c
import numpy as np
import torch

from pipeline.durable import canonical
from pipeline.errors import UserError
from pipeline.models.weights import read_weights
from pipeline.packing.payloads import check
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import scan
from pipeline.shards.patterns import expand
from pipeline.store.reader import StoreReader
from pipeline.teacher.class_map import read_class_map
from pipeline.teacher.loading import load_teacher
from pipeline.views.recipe import Recipe
from stages.teacher_logits import main as teacher_logits
from stages.verify_logits import main as verify_logits
from student.checkpoints import checkpoint
from student.checkpoints.starting_weights import read_initial
from tests import pictures
from tests.campaign import shapes
from tests.campaign.tally import Scale, Tally
from tests.damaged_stores import INDEX, MANIFEST, VIEWS, read_everything, replace_object, reseal
from tests.faults import in_child, wait_for
from tests.pictures import encoded, raw_png, sample, scene, write_tar
from tests.stores import finished
from tests.tar_headers import END, header, pax, record

TITLE = "hostile input: pickles, pipe: URLs, path tricks, links, bombs, rewritten metadata, disguises"
PROGRAM = 512 << 20
"""What the program itself takes, all its modules included; a case is forked from a process that may have more"""
SHOWS = "nothing executes, memory under 1 GiB, clear error"
MEMORY = 1 << 30
WATCHED = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile", "pty.spawn"),
    *(
        "subprocess.Popen",
        "pickle.find_class",
        "socket.connect",
        "socket.getaddrinfo",
        "code.__new__",
        "ftplib.connect",
    ),
    *("urllib.Request", "shutil.unpack_archive"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A file that somebody made on purpose, and who reads it."""

    name: str
    attack: Callable[[Path, Path], object]
    """Called with an empty folder and the canary; makes the file and has it read."""
    harmless: bool = False
    """It is not for us to read, and nothing is said about it."""


class Bomb:
    """Runs, where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def run(scale: Scale, place: Path) -> Tally:
    """Every case, at every scale."""
    del scale
    tally, most = Tally(), (0, "")
    every = list(cases())
    for number, case in enumerate(every):
        folder = place / str(number)
        folder.mkdir()
        most = max(most, (_try(tally, case, folder), case.name))
        shutil.rmtree(folder, ignore_errors=True)
    tally.note(f"{len(every)} cases; the largest process had {most[0] >> 20} MiB, the program included ({most[1]}).")
    return tally


def _try(tally: Tally, case: Case, folder: Path) -> int:
    """Run one case in a process of its own; its memory."""
    canary, report = folder / "canary", folder / "report.json"
    status = wait_for(in_child(lambda: _attack(case, folder, canary, report)))
    if status or not report.exists():
        tally.case(failure=f"{case.name}: the process ended with {status}")
        return 0
    found = json.loads(report.read_text())
    wrong = None
    if canary.exists() or found["events"]:
        wrong = f"{case.name}: something ran: {found['events'] or 'the payload'}"
    unclear = None
    if found["memory"] >= MEMORY:
        unclear = f"{case.name}: {found['memory'] >> 20} MiB"
    elif found["outcome"] != ("nothing" if case.harmless else "refused"):
        unclear = f"{case.name}: {found['outcome']}: {found['said'][:300]}"
    tally.case(silent=wrong, failure=unclear)
    return int(found["memory"])


def _attack(case: Case, folder: Path, canary: Path, report: Path) -> None:
    events: list[str] = []
    before = _peak()
    sys.addaudithook(lambda event, args: events.append(f"{event} {args!r:.120}") if event in WATCHED else None)
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    outcome, said = "nothing", ""
    try:
        case.attack(folder, canary)
    except UserError as error:
        outcome, said = "refused", str(error)
    except click.ClickException as error:
        outcome, said = "refused", error.format_message()
    except SystemExit as error:
        outcome, said = ("refused", sys.stderr.getvalue()) if error.code == 1 else (f"exit {error.code}", "")
    except BaseException as error:
        outcome, said = type(error).__name__, str(error)
    sys.stdout, sys.stderr = streams
    memory = PROGRAM + _peak() - before
    report.write_text(json.dumps({"outcome": outcome, "said": said, "events": list(events), "memory": memory}))


def _peak() -> int:
    """The most memory that this process was resident with; a forked one begins with what its parent has then."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ---- the cases


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _pickles()
    yield from _tars()
    yield from _images()
    yield from _stores()
    yield from _texts()
    yield from (Case(name, attack) for name, attack in shapes.cases())


def _pickles() -> Iterator[Case]:
    def beside(folder: Path, canary: Path) -> None:
        members = [*sample("a", pictures.jpeg(1), 0)]
        members += [("a.pyd", pickle.dumps(Bomb(canary))), ("a.pickle", pickle.dumps(Bomb(canary)))]
        _draw_all(write_tar(folder / "x.tar", members))

    def as_image(folder: Path, canary: Path) -> None:
        _draw_all(write_tar(folder / "x.tar", sample("a", pickle.dumps(Bomb(canary)), 0)))

    def as_class(folder: Path, canary: Path) -> None:
        scan([str(write_tar(folder / "x.tar", [("a.jpg", pictures.jpeg(1)), ("a.cls", pickle.dumps(Bomb(canary)))]))])

    def run_directory(folder: Path, canary: Path) -> None:
        (folder / "last.pt").write_bytes(pickle.dumps(Bomb(canary)))
        checkpoint.newest(folder)

    def sealed_checkpoint(folder: Path, canary: Path) -> None:
        checkpoint.save(folder, {"model": Bomb(canary), "epoch": 0, "step": 0})
        checkpoint.load(folder)

    def initial(folder: Path, canary: Path) -> None:
        torch.save({"model": Bomb(canary)}, folder / "start.pth")
        read_initial(folder / "start.pth")

    def weights(folder: Path, canary: Path) -> None:
        torch.save({"state_dict": Bomb(canary)}, folder / "teacher.pth")
        load_teacher("test_resnet", view_size=32, weights=folder / "teacher.pth", device="cpu", input_size="view")

    def disguised(folder: Path, canary: Path) -> None:
        (folder / "teacher.safetensors").write_bytes(pickle.dumps(Bomb(canary)))
        read_weights(folder / "teacher.safetensors")

    def huge_header(folder: Path, _: Path) -> None:
        (folder / "teacher.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
        read_weights(folder / "teacher.safetensors")

    def zip_bomb(folder: Path, __: Path) -> None:
        with zipfile.ZipFile(folder / "teacher.pth", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open("archive/data.pkl", "w") as file:
                for _ in range(1024):
                    file.write(bytes(1 << 20))
            archive.writestr("archive/version", b"3\n")
        read_weights(folder / "teacher.pth")

    yield Case("pickles beside the images of a shard", beside, harmless=True)
    yield Case("a pickle named .jpg", as_image)
    yield Case("a pickle named .cls", as_class)
    yield Case("a pickle named last.pt", run_directory)
    yield Case("a checkpoint with a right digest that would run code", sealed_checkpoint)
    yield Case("--init with a file that would run code", initial)
    yield Case("a teacher's weights that would run code", weights)
    yield Case("a pickle named .safetensors", disguised)
    yield Case("safetensors with a header of a terabyte", huge_header)
    yield Case("a checkpoint that inflates", zip_bomb)


def _tars() -> Iterator[Case]:
    def pipe(_: Path, canary: Path) -> None:
        expand([f"pipe:touch {canary}"])

    def pipe_to_command(folder: Path, canary: Path) -> None:
        line = [
            "--shards",
            f"pipe:touch {canary}; cat x.tar",
            "--model",
            "test_resnet",
            "--out",
            str(folder / "s.zarr"),
        ]
        teacher_logits.main(line, standalone_mode=True)

    def shell_name(folder: Path, canary: Path) -> None:
        _draw_all(write_tar(folder / f"$(touch canary);`touch {canary.name}`.tar", sample("a", pictures.jpeg(1), 0)))

    def fifo(folder: Path, _: Path) -> None:
        os.mkfifo(folder / "x.tar")
        scan(expand([str(folder / "x.tar")]))

    def device(folder: Path, _: Path) -> None:
        (folder / "x.tar").symlink_to("/dev/zero")
        scan(expand([str(folder / "x.tar")]))

    def sparse(folder: Path, _: Path) -> None:
        with (folder / "x.tar").open("wb") as file:
            file.write(header(b"a.jpg", 1 << 32))
            file.truncate((1 << 32) + 3 * 512)
        scan([str(folder / "x.tar")])

    yield Case("a pipe: URL", pipe)
    yield Case("a pipe: URL to the command", pipe_to_command)
    yield Case("a shard whose name is a shell command", shell_name, harmless=True)
    yield Case("a named pipe as a shard", fifo)
    yield Case("a device as a shard", device)
    yield Case("a sparse shard with an image of 4 GiB", sparse)
    hostile = {
        "a member that leaves the folder": header(b"../../etc/a.jpg") + END,
        "a member with an absolute name": header(b"/etc/a.jpg") + END,
        "a symbolic link in a tar": header(b"a.jpg", kind=b"2") + END,
        "a hard link in a tar": header(b"a.jpg", kind=b"1") + END,
        "a member of eight exabytes": header(size=b"\x80" + b"\x7f" * 11) + END,
        "a pax header of a gigabyte": header(b"x", 1 << 30, b"x") + bytes(1024) + END,
        "a pax size that wraps": pax(record(b"size", b"18446744073709551615")) + header() + END,
        "a sparse member": pax(record(b"GNU.sparse.size", b"1099511627776")) + header() + END,
        "a long name of 64 KiB": header(b"L", 65_536, b"L") + b"n" * 65_535 + b"\0" + header() + END,
    }
    for name, data in hostile.items():
        yield Case(name, lambda folder, _, data=data: scan([_put(folder / "x.tar", data)]))  # type: ignore[misc]


def _images() -> Iterator[Case]:
    def packed(payload: bytes) -> Callable[[Path, Path], None]:
        def attack(folder: Path, _: Path) -> None:
            problem = check(_put(folder / "x.jpg", payload), max_side=None).problem
            assert problem, "pack takes it"
            _draw_all(write_tar(folder / "x.tar", sample("a", payload, 0)))

        return attack

    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch canary) (w) file\nshowpage\n"
    text = raw_png(1, 1, 8, 0, b"\0\0", pictures.png_chunk(b"iCCP", b"k\0\0" + _deflated(200_000_000)))
    bombs = {
        "an EPS named .jpg": eps,
        "an SVG named .jpg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
        "a PNG of 144 megapixels": pictures.bomb_png(),
        "a PNG of 4 gigapixels": raw_png(65_535, 65_535, 8, 2, b"\0"),
        "a WebP of 67 megapixels": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (8191).to_bytes(3, "little") * 2,
        "a JPEG of thousands of scans": encoded(scene(1), "JPEG", progressive=True)[:-2] + b"\xff\xda\x00\x02" * 5000,
    }
    for name, payload in bombs.items():
        yield Case(name, packed(payload))

    def profile(folder: Path, _: Path) -> None:
        _draw_all(write_tar(folder / "x.tar", sample("a", text, 0)))

    def rows(folder: Path, _: Path) -> None:
        header_ = pictures.png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
        data = pictures.png_chunk(b"IDAT", _deflated(1_500_000_000)) + pictures.png_chunk(b"IEND", b"")
        _draw_all(write_tar(folder / "x.tar", sample("a", b"\x89PNG\r\n\x1a\n" + header_ + data, 0)))

    yield Case("a PNG whose profile inflates to 200 MB", profile)
    yield Case("a PNG of 8 × 8 pixels whose rows inflate to 1.5 GB", rows, harmless=True)


def _stores() -> Iterator[Case]:
    def changed(key: str, change: Callable[[Path], None]) -> Callable[[Path, Path], None]:
        def attack(folder: Path, _: Path) -> None:
            path = folder / "store.zarr"
            finished(path, MANIFEST, INDEX, VIEWS)
            if key:
                (path / key).unlink()
            change(path)
            read_everything(path)

        return attack

    def link(path: Path) -> None:
        (path / "argmax/c.0.0").symlink_to("/etc/passwd")

    def fifo(path: Path) -> None:
        os.mkfifo(path / "argmax/c.0.0")

    def sparse(path: Path) -> None:
        with (path / "COMPLETE").open("wb") as file:
            file.truncate(2 << 30)

    def deep(path: Path) -> None:
        (path / "COMPLETE").write_bytes(b'{"a":' * 100_000)

    def codec(path: Path) -> None:
        root = canonical.load((path / "argmax/zarr.json").read_bytes())
        replace_object(path, "argmax/zarr.json", canonical.dump({**root, "codecs": [{"name": "numcodecs.pickle"}]}))

    def shape(path: Path) -> None:
        text = (path / "zarr.json").read_bytes().replace(b'"rows":48', b'"rows":281474976710000')
        replace_object(path, "zarr.json", text)

    def side(path: Path) -> None:
        text = (path / "zarr.json").read_bytes().replace(b'"image_size":8', b'"image_size":4096')
        replace_object(path, "zarr.json", text)

    def units(path: Path) -> None:
        reseal(path, lambda record_: record_.update(runs=1 << 40))

    def views(path: Path) -> None:
        reseal(path, lambda record_: record_["base"].update(views=1 << 40))

    def urls(path: Path) -> None:
        text = (path / "zarr.json").read_bytes().replace(b"data/train/000000.tar", b"pipe:touch canary;###")
        replace_object(path, "zarr.json", text)

    def chunk(path: Path) -> None:
        store = StoreReader.open(path)
        huge = dataclasses.replace(
            store.layout.unit_arrays()["argmax"], shape=(1, 1 << 27), block=(1, 1 << 27), rows=1 << 27
        )
        packed = huge.encode(np.zeros((1, 1 << 27), np.uint8))[:-20]
        index = np.array([[0, len(packed)]], "<u8").tobytes()
        bomb = packed + index + google_crc32c.value(index).to_bytes(4, "little")
        replace_object(path, "argmax/c.0.0", bomb, array="argmax")

    yield Case("an object that links to another file", changed("argmax/c.0.0", link))
    yield Case("an object that is a named pipe", changed("argmax/c.0.0", fifo))
    yield Case("a COMPLETE of two gigabytes", changed("COMPLETE", sparse))
    yield Case("a COMPLETE nested 100,000 deep", changed("COMPLETE", deep))
    yield Case("zarr.json with a pickle codec and a right digest", changed("", codec))
    yield Case("zarr.json of 2^48 rows with a right digest", changed("", shape))
    yield Case("zarr.json of other views with a right digest", changed("", side))
    yield Case("COMPLETE of 2^40 runs with a right seal", changed("", units))
    yield Case("COMPLETE of 2^40 views with a right seal", changed("", views))
    yield Case("zarr.json with a pipe: URL and a right digest", changed("", urls))
    yield Case("a chunk that inflates, with a right digest", changed("", chunk))

    def url(folder: Path, canary: Path) -> None:
        line = ["--logits", f"pipe:touch {canary}"]
        verify_logits.main(line, standalone_mode=True)

    yield Case("a pipe: URL as a store", url)


def _texts() -> Iterator[Case]:
    def deep_json(folder: Path, _: Path) -> None:
        scan([str(write_tar(folder / "x.tar", [("a.jpg", pictures.jpeg(1)), ("a.json", b"[" * 500_000)]))])

    def long_number(folder: Path, _: Path) -> None:
        member = ("a.json", b'{"label": ' + b"9" * 1_000_000 + b"}")
        scan([str(write_tar(folder / "x.tar", [("a.jpg", pictures.jpeg(1)), member]))])

    def classes(folder: Path, _: Path) -> None:
        (folder / "classes.json").write_bytes(b'{"classes": ["a' + b"\\u001b]0;x" + b'"]}')
        scan([str(write_tar(folder / "x.tar", sample("a", pictures.jpeg(1), 0)))])

    def pack_json(folder: Path, _: Path) -> None:
        (folder / "pack.json").write_bytes(b'{"shards": ' + b"[" * 200_000)
        scan([str(write_tar(folder / "x.tar", sample("a", pictures.jpeg(1), 0)))])

    def class_map(folder: Path, _: Path) -> None:
        read_class_map(Path(_put(folder / "map.json", b"[" * 200_000)), None)

    def braces(_: Path, __: Path) -> None:
        expand(["{0..999999999}" * 8])

    yield Case("a label of JSON nested half a million deep", deep_json)
    yield Case("a label of a million digits", long_number)
    yield Case("a class name with terminal codes", classes)
    yield Case("a pack.json nested 200,000 deep", pack_json)
    yield Case("a class map nested 200,000 deep", class_map)
    yield Case("braces that ask for 10^72 shards", braces)


def _put(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def _deflated(count: int) -> bytes:
    packer = zlib.compressobj(1)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(count >> 20)]
    return b"".join([*parts, packer.flush()])


def _draw_all(shard: Path) -> None:
    """What a run does with a shard."""
    index = scan(expand([str(shard)]))
    out = np.empty((len(index), 32, 32, 3), np.uint8)
    row_R = np.arange(len(index))
    Renderer(Recipe(image_size=32, mix_window=2), index, index.files()).render(row_R, row_R * 0, out)


@contextmanager
def _trusting() -> Iterator[None]:
    """torch.load as it was for years."""
    load = torch.load
    torch.load = lambda *a, **k: load(*a, **{**k, "weights_only": False})  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = load


def sabotage(place: Path) -> Tally:
    """With a loader that executes, the hook and the canary must both notice."""
    tally = Tally()
    for number, case in enumerate(_pickles()):
        if case.name in ("--init with a file that would run code", "a teacher's weights that would run code"):
            folder = place / str(number)
            folder.mkdir()
            with _trusting():
                _try(tally, case, folder)
            if not (folder / "canary").exists():
                return Tally(count=1)  # nothing ran: the sabotage itself does not work
    return tally
