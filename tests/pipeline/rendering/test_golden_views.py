"""Today's program plans and renders what each version of the recipe that it knows always did.

Stored labels are only as good as this: a store made by one release is used by the next. After a change of meaning that
is wanted, bump `pipeline.views.recipe.VERSION`, then write the new values with

    python -m tests.pipeline.rendering.test_golden_views
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.proofs.checksums import checksum
from pipeline.rendering.renderer import Renderer
from pipeline.shards.index import scan
from pipeline.shards.samples import key_hash
from pipeline.views.distributions import normal_table
from pipeline.views.mixing import plan_mixing
from pipeline.views.philox import Purpose, philox
from pipeline.views.plan import plan_views
from pipeline.views.recipe import RENDERED, VERSION, Recipe
from tests.pictures import SIZES, encoded, jpeg, sample, scene, write_tar

FOLDER = Path(__file__).parents[2] / "golden"
TAR = FOLDER / "pictures.tar"
ADVICE = """

This is not what this version of the recipe meant so far: labels stored under it would belong to other pixels.
If that is wanted, bump Recipe.version (pipeline.views.recipe.VERSION) and run python -m
tests.pipeline.rendering.test_golden_views.
If only `crc` differs, another decoder, OpenCV or torch may draw a level off: see docs/recipe.md."""
ROWS, VIEWS, SIDE = 10, 2, 32
RECIPES = {
    "deit": Recipe(image_size=SIDE, mix_window=4),
    "light": Recipe.preset("light", image_size=SIDE),
    "three": Recipe.preset("three", image_size=SIDE, mix_window=8, seed=2**64 - 1),
    "none": Recipe.preset("none", image_size=SIDE),
    "bilinear": Recipe(image_size=SIDE, interpolation="bilinear", mix_window=2, mix_prob=0.5, seed=7),
    "simple, random filter": Recipe(image_size=SIDE, crop="simple", interpolation="random", randaugment="rand-n4-p1"),
    "weights": Recipe(image_size=SIDE, randaugment="rand-m12-mstd101-mmax15-n3-p0.7-tweights", erase=1.0, mixup=0.2),
}


def values_of(version):
    return FOLDER / f"views_v{version}.json"


def found(version):
    """Everything that is pinned."""
    index = scan([str(TAR)])
    rows, views = np.tile(np.arange(ROWS), VIEWS), np.repeat(np.arange(VIEWS), ROWS)
    values = {
        "draws": philox(
            np.array([key_hash("golden")], np.uint64), np.array([3], np.uint32), 5, Purpose.CROP, 2
        ).tolist(),
        "normal_table": checksum(normal_table().view(np.uint8)),
        "partners": " ".join(map(str, plan_mixing(Recipe(), 200, np.arange(200), np.full(200, 9)).partner_B)),
        "fingerprints": {
            name: Recipe.preset(name, version=version).fingerprint() for name in ("deit", "light", "three", "none")
        },
    }
    for name, recipe in RECIPES.items():
        recipe = dataclasses.replace(recipe, version=version)
        out = np.empty((len(rows), SIDE, SIDE, 3), np.uint8)
        rendered = Renderer(recipe, index, index.files()).render(rows, views, out)
        values[name] = {
            "plan": plan_views(recipe, index, rows, views).table().splitlines(),
            "crc": [f"{crc:08x}" for crc in rendered.crc_B],
            "luma": [" ".join(map(str, luma)) for luma in rendered.luma_B16.tolist()],
        }
    return values


@pytest.fixture(scope="module", params=RENDERED)
def values(request):
    return json.loads(json.dumps(found(request.param))), json.loads(
        values_of(request.param).read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("name", ["draws", "normal_table", "partners", "fingerprints"])
def test_draws_are_pinned(values, name):
    assert values[0][name] == values[1][name], ADVICE


@pytest.mark.parametrize("part", ["plan", "luma", "crc"])
@pytest.mark.parametrize("name", RECIPES)
def test_views_are_pinned(values, name, part):
    for line, (now, before) in enumerate(zip(values[0][name][part], values[1][name][part], strict=True)):
        assert now == before, f"{name}, row {line % ROWS}, view {line // ROWS}{ADVICE}"


def write():
    """Write the values of today; the pictures only where there are none."""
    if not TAR.exists():
        payloads = [jpeg(row, *SIZES[row % len(SIZES)]) for row in range(ROWS - 2)]
        payloads += [encoded(scene(8, 40, 30), "PNG"), encoded(scene(9, 30, 40)[..., 0], "JPEG", quality=90)]
        kinds = ["jpg"] * (ROWS - 2) + ["png", "jpg"]
        members = [sample(f"golden/{row}", payloads[row], row % 3, kinds[row]) for row in range(ROWS)]
        write_tar(TAR, [member for parts in members for member in parts])
    path = values_of(VERSION)
    path.write_text(json.dumps(found(VERSION), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    write()
