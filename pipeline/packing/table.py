"""Which images does a table of ``path,class`` list?

Paths lie below the images' folder, and classes are names, or numbers, or empty.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.packing.sources import INTEGER, Source, SourceError, Sources, brief, with_keys
from pipeline.shards.sidecars import require_class_names
from pipeline.shards.truth import MAX_CLASSES


def from_table(table: Path, images: Path | None, class_names: tuple[str, ...] | None) -> Sources:
    """Images that a CSV of path,class lists; paths are relative to `images`, or else to the table's folder."""
    root = images or table.parent
    rows = list(_table_rows(table))
    if not rows:
        raise SourceError(f"{table} lists no images. It must have lines of path,class.")
    names = [_name_in_table(table, line, path, root) for line, path, _ in rows]
    seen: dict[str, int] = {}
    for (line, _, _), name in zip(rows, names, strict=True):
        if name in seen:
            raise SourceError(f"{table}: lines {seen[name]} and {line} both list {name}. List each image once.")
        seen[name] = line
    classes, class_names = _classes_in_table(table, rows, class_names)
    found = [
        Source(path=str(root / name), name=name, key="", label=label)
        for name, label in zip(names, classes, strict=True)
    ]
    return Sources(images=with_keys(found), class_names=class_names)


def _table_rows(table: Path) -> Iterator[tuple[int, str, str]]:
    """Line, path and class of each row; a first line that names the columns may put them in any order."""
    reader = csv.reader(io.StringIO(_text_of(table), newline=""), strict=True)
    path, label, fields = 0, 1, 2
    try:
        for cells in reader:
            words = [cell.strip().lower() for cell in cells]
            if reader.line_num == 1 and "path" in words and "class" in words:
                path, label, fields = words.index("path"), words.index("class"), len(cells)
            elif cells:
                if len(cells) != fields:
                    raise SourceError(
                        f"{table}: line {reader.line_num} has {len(cells)} fields instead of {fields}. It must have "
                        "lines of path,class."
                    )
                yield reader.line_num, cells[path], cells[label].strip()
    except csv.Error as error:
        raise SourceError(f"{table}: line {reader.line_num} is no CSV: {error}.") from None


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SourceError(f"{path} is not UTF-8 text.") from None


def _name_in_table(table: Path, line: int, path: str, root: Path) -> str:
    """The path of a row below the root, however it was written."""
    base = Path(os.path.abspath(root))  # noqa: PTH100 - links stay as they are written
    inside = Path(os.path.abspath(root / path)) if "\0" not in path else base  # noqa: PTH100
    if inside == base or not inside.is_relative_to(base):
        raise SourceError(
            f"{table}: line {line} lists {path!r}, which is not below {root}. Set --images to a folder above."
        )
    return inside.relative_to(base).as_posix()


def _classes_in_table(
    table: Path, rows: Sequence[tuple[int, str, str]], class_names: tuple[str, ...] | None
) -> tuple[list[int], tuple[str, ...] | None]:
    """A number for each row: its own, or that of its name among the given or else the sorted names."""
    numbered = [(line, word) for line, _, word in rows if INTEGER.fullmatch(word)]
    named = [(line, word) for line, _, word in rows if word and not INTEGER.fullmatch(word)]
    if class_names is None and numbered and named:
        raise SourceError(
            f"{table} has the class {named[0][1]!r} in line {named[0][0]} and the class {numbered[0][1]} in line "
            f"{numbered[0][0]}. Use names or numbers, or say by --classes which names there are."
        )
    if class_names is None and named:
        class_names = tuple(sorted({word for _, word in named}))
        require_class_names(class_names, table)
    numbers = {"": -1, **{name: number for number, name in enumerate(class_names or ())}}
    limit = len(class_names) if class_names else MAX_CLASSES
    labels = []
    for line, _, word in rows:
        label = numbers[word] if word in numbers else int(word) if INTEGER.fullmatch(word) else limit
        if not -1 <= label < limit:
            known = brief(class_names) if class_names else f"-1 to {MAX_CLASSES - 1:,}"
            raise SourceError(f"{table}: line {line} has the class {word!r}. Known are {known}.")
        labels.append(label)
    return labels, class_names
