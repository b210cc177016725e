"""What does a stranger who finds a store on a hub read first?

Whose answers these are, about which views of which pictures, in what form; and how to train with them. The pictures
themselves are not in it, and a licence is the owner's to state.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from pipeline.durable.objects import open_objects
from pipeline.inspection.gauge import gauge_text, stored_gauge
from pipeline.store.manifest import Manifest
from pipeline.store.reader import StoreReader
from student.exporting.model_card import front_matter


def data_card(store: StoreReader, repository: str, folder: str) -> str:
    """The card of a store that lies in a folder of a repository."""
    manifest, layout = store.manifest, store.layout
    teacher, size = manifest.teacher, store.bytes_per_view()
    values = _facts(manifest, layout.views)
    signal = gauge_text(stored_gauge(open_objects(store.name), manifest), size)
    name = PurePosixPath(folder)
    local = not any("://" in url for url in store.index.urls)
    shards = " --shards 'WHERE YOURS LIE/*.tar'" if local else ""
    where = f"{store.index.urls[0]} …" if not local else "on the disk of who labelled them"
    return "\n".join(
        [
            front_matter(values),
            f"# Answers of {teacher.name}\n",
            f"What a teacher said about {layout.views} augmented views of each of {manifest.rows:,} pictures, in "
            f"{sum(size.values()):.1f} bytes a view, with a checksum of the pixels that it saw. The pictures are not "
            f"here: their shards ({len(store.index.urls)}) lay {where}, and the same ones (digest "
            f"{manifest.index_digest[:12]}) are needed to train.\n",
            *(f"- {line}" for line in signal),
            "" if signal else "No figure was stored of how much of the signal this keeps.\n",
            "## How to train with it\n",
            "```",
            f"hf download --repo-type dataset {repository} --local-dir labels",
            f"distill train --logits labels/{name}{shards} --out runs/student",
            "```\n",
            "The trainer draws each view again and holds it to its checksum. Plain arrays, without this program:\n",
            "```python",
            "import zarr",
            "",
            f'print(zarr.open_group("labels/{name}", mode="r")["argmax"][0, :10])  # view 0 of the first rows',
            "```",
        ]
    )


def _facts(manifest: Manifest, views: int) -> dict[str, object]:
    """What programs read of a card: who answered, about what, and how it is kept."""
    return {
        "pretty_name": f"Answers of {manifest.teacher.name} about {views} views of {manifest.rows} pictures",
        "tags": ["image-classification", "knowledge-distillation", "offline-distiller", "soft-labels", "zarr"],
        "teacher": manifest.teacher.name,
        "teacher_weights_sha256": manifest.teacher.weights_sha256,
        "teacher_precision": manifest.teacher.precision,
        "labels": str(manifest.keep),
        "temperatures": list(manifest.temperatures) or None,
        "views": views,
        "rows": manifest.rows,
        "classes": manifest.num_classes,
        "image_size": manifest.recipe.image_size,
        "store": manifest.fingerprint(),
        "recipe": manifest.recipe.fingerprint(),
        "data": manifest.index_digest,
    }
