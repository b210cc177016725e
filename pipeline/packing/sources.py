"""Which images are to be packed, with which classes, and under which keys?

A folder per class: the sorted names of the folders are the class numbers, and a folder holds its images at any depth.
A folder of its own for images without a class (-1). Or a table (`pipeline.packing.table`). A list of class names fixes
their numbers, so that a validation set counts as its training set does. What is not as it was said to be (a class
without images, an image outside the classes, a path that leaves the folder) is refused with its name; hidden files
apart, none is left out without a word.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import UserError
from pipeline.packing.keys import keys_of
from pipeline.pictures.formats import FORMATS
from pipeline.shards.sidecars import require_class_names

log = logging.getLogger(__name__)

READ_SUFFIXES = tuple(f".{suffix}" for known in FORMATS for suffix in (*known.fields, *known.suffixes))
OTHER_SUFFIXES = (".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".svg", ".eps", ".jp2", ".jxl", ".psd")
"""Images that cannot be packed: they are listed and refused, where other files are passed over."""

SPLITS = frozenset(
    ("train", "training", "trainval", "val", "valid", "validation", "test", "testing", "dev", "eval", "evaluation")
)
"""Names of folders that divide data, and are no classes"""

INTEGER = re.compile(r"-?[0-9]{1,9}")
SHOWN = 5

Identity = tuple[int, int]


class SourceError(UserError):
    """The images to pack are not where, or not as, they were said to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An image file that is to become a row, with its key and its class."""

    path: str
    """Where it lies."""
    name: str
    """What messages call it: its path below the folder that was named."""
    key: str
    """The row's key."""
    label: int
    """Class number; -1 without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """All images, and the names of the classes where they have any."""

    images: tuple[Source, ...]
    class_names: tuple[str, ...] | None


def from_folders(images: Path | None, unlabelled: Sequence[Path], class_names: tuple[str, ...] | None) -> Sources:
    """Images in a folder per class below `images`, and images without a class below each of `unlabelled`."""
    apart = {_identity(folder): folder for folder in unlabelled}
    if len(apart) < len(unlabelled):
        raise SourceError("--unlabelled names one folder twice. Name each folder once.")
    found: list[Source] = []
    if images is not None:
        folders = _class_folders(images, apart)
        if class_names is None:
            _require_no_splits(images, folders)
        class_names = _numbered(folders, class_names, images)
        numbers = {name: number for number, name in enumerate(class_names)}
        for name in folders:
            found += _images_in(images / name, name, numbers[name], apart)
        _require_images(images, folders, found)
    for identity, folder in apart.items():
        others = {other: place for other, place in apart.items() if other != identity}
        if images is not None:
            others[_identity(images)] = images  # those have a class
        more = _images_in(folder, _name_below(folder, images), -1, others)
        if not more:
            raise SourceError(f"{folder} holds no images. Name a folder of images by --unlabelled, or leave it out.")
        found += more
    return Sources(images=with_keys(found), class_names=class_names)


def _identity(folder: Path) -> Identity:
    try:
        status = folder.stat()
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error.strerror}. Name a folder of images.") from None
    if not folder.is_dir():
        raise SourceError(f"{folder} is a file. Name the folder that holds the images.")
    return status.st_dev, status.st_ino


def _class_folders(images: Path, apart: Mapping[Identity, Path]) -> list[str]:
    """The names of the folders directly below `images`, sorted; images that lie beside them are refused."""
    _identity(images)
    entries = _entries(images)
    loose = [entry.name for entry in entries if not entry.is_dir() and _is_image(entry.name)]
    if loose:
        raise SourceError(
            f"{images} holds {_count(loose, 'image')} outside any class folder: {brief(loose)}. Move each into the "
            "folder of its class, name a folder without classes by --unlabelled, or list path,class in a --csv."
        )
    folders = [entry.name for entry in entries if entry.is_dir() and _identity(Path(entry.path)) not in apart]
    if not folders:
        raise SourceError(
            f"{images} holds no class folders. It must hold one folder per class, or be listed in a --csv."
        )
    return folders


def _require_no_splits(images: Path, folders: Sequence[str]) -> None:
    """Refuse the folder above train/ and val/, where what is in these are the classes; also from one level higher."""
    below = {name: [entry.name for entry in _entries(images / name) if entry.is_dir()] for name in folders}
    if len(folders) == 1 and below[folders[0]] and _are_splits(below[folders[0]]):
        images, folders = images / folders[0], below[folders[0]]
        below = {name: [entry.name for entry in _entries(images / name) if entry.is_dir()] for name in folders}
    filled = [name for name in folders if below[name]]
    if not _are_splits(folders) or not filled:
        return
    first = next((name for name in filled if name.lower().startswith("train")), filled[0])
    raise SourceError(
        f"{images} holds {brief(folders)}, which divide data and are no classes; the classes seem to be the folders "
        f"in them ({first} has {_count(below[first], 'folder')}: {brief(below[first])}). Pack each on its own: "
        f"--images {images / first}, then the others with --classes CLASSES, the classes.json that the first one "
        "wrote. If these are classes after all, name them by --classes."
    )


def _are_splits(folders: Sequence[str]) -> bool:
    return all(name.lower() in SPLITS for name in folders)


def _numbered(folders: Sequence[str], class_names: tuple[str, ...] | None, images: Path) -> tuple[str, ...]:
    """The names of classes 0, 1, …: those that were given, or else the folders'."""
    if class_names is None:
        require_class_names(folders, images)
        _warn_of_numbers(folders)
        return tuple(folders)
    known = set(class_names)
    if unknown := [name for name in folders if name not in known]:
        raise SourceError(
            f"{images} has {_count(unknown, 'folder')} that --classes does not name: {brief(unknown)}. Known are "
            f"{brief(class_names)}."
        )
    if absent := sorted(known - set(folders)):
        log.warning("%d classes of --classes have no folder: %s", len(absent), brief(absent))
    return class_names


def _warn_of_numbers(folders: Sequence[str]) -> None:
    """Folders that are called by numbers get numbers by their order, which may be others."""
    if not all(INTEGER.fullmatch(name) for name in folders):
        return
    if other := [(name, place) for place, name in enumerate(folders) if int(name) != place]:
        log.warning(
            "the class folders are numbers, but are numbered in the order of their names, as torchvision's ImageFolder "
            "does: folder %s is class %d. --classes sets another order",
            *other[0],
        )


def _require_images(images: Path, folders: Sequence[str], found: Sequence[Source]) -> None:
    filled = {source.name.split("/", 1)[0] for source in found}
    if empty := [name for name in folders if name not in filled]:
        raise SourceError(
            f"{images}: {_count(empty, 'class folder')} of {len(folders)} without an image: {brief(empty)}. Remove "
            "what is no class, or put its images in."
        )


def _name_below(folder: Path, images: Path | None) -> str:
    """What names begin with for a folder without classes: its path below `images`, or its own name."""
    place = folder.resolve()
    if images is not None and place != images.resolve() and place.is_relative_to(images.resolve()):
        return place.relative_to(images.resolve()).as_posix()
    return place.name or "unlabelled"


def _images_in(folder: Path, name: str, label: int, apart: Mapping[Identity, Path]) -> list[Source]:
    """The images in a folder at any depth; other files are passed over, and said so."""
    files = list(_walk(folder, "", apart, frozenset((_identity(folder),))))
    others = [file for file in files if not _is_image(file)]
    if others:
        log.warning(
            "%s: %s passed over: %s",
            folder,
            _count(others, "file without the name of an image", "files"),
            brief(others),
        )
    return [
        Source(path=str(folder / file), name=f"{name}/{file}", key="", label=label) for file in files if _is_image(file)
    ]


def _walk(folder: Path, prefix: str, apart: Mapping[Identity, Path], above: frozenset[Identity]) -> Iterator[str]:
    """Files below a folder, through links, in the order of their names; hidden ones are left out."""
    for entry in _entries(folder):
        if not entry.is_dir():
            yield prefix + entry.name
            continue
        inner = Path(entry.path)
        identity = _identity(inner)
        if identity in above:
            raise SourceError(f"{inner} links to a folder that it lies in. Remove the link.")
        if identity not in apart:
            yield from _walk(inner, f"{prefix}{entry.name}/", apart, above | {identity})


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"{folder} cannot be read: {error.strerror}.") from None
    return sorted(found, key=lambda entry: entry.name)


def _is_image(name: str) -> bool:
    return name.lower().endswith(READ_SUFFIXES + OTHER_SUFFIXES)


def with_keys(found: Sequence[Source]) -> tuple[Source, ...]:
    """The sources with their keys, in the order of the keys."""
    if not found:
        raise SourceError("there are no images to pack.")
    keys = keys_of([source.name for source in found])
    keyed = [replace(source, key=key) for source, key in zip(found, keys, strict=True)]
    keyed.sort(key=lambda source: source.key)
    for first, second in itertools.pairwise(keyed):
        if first.key == second.key:
            raise SourceError(f"{first.path} and {second.path} would share the key {first.key!r}. Rename one of them.")
    return tuple(keyed)


def _count(things: Sequence[str], one: str, many: str | None = None) -> str:
    return f"{len(things)} {one if len(things) == 1 else many or one + 's'}"


def brief(names: Sequence[str]) -> str:
    """The first few of these names, for a message."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
