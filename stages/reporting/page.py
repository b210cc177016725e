"""How does a story become one HTML file?

All HTML and all prose is in the template ``page.html``, all style in ``page.css``, which becomes part of the page:
nothing is loaded from anywhere, and there is no script. Whatever is put into the template is text, and never markup,
but for the figures that matplotlib drew.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import jinja2

from stages.reporting import tables
from stages.reporting.figures import drawings
from stages.reporting.findings import findings, gained, headline, lead
from stages.reporting.report_data import Story, inspected, points, share, tables_of, taught
from stages.reporting.results import called

HERE = Path(__file__).parent
SLIDES = ("accuracy", "top1", "loss", "tokens")
"""Figures that are PNG files too"""


def render(story: Story) -> tuple[str, dict[str, bytes]]:
    """The page, and by their names the figures that are also written as PNG."""
    drawn = drawings(story)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"share": share, "base64": lambda data: base64.b64encode(data).decode("ascii")}
    page = environment.get_template("page.html").render(
        story=story,
        drawn=drawn,
        tables=tables,
        files=tables_of(story),
        called=called,
        points=points,
        taught=taught,
        inspected=inspected(story)[0],
        headline=headline(story),
        lead=lead(story),
        gained=gained(story),
        findings=findings(story),
        recipe=json.dumps(story.store.manifest.recipe.to_json(), indent=2, sort_keys=True),
        style=(HERE / "page.css").read_text(encoding="utf-8"),
    )
    return page, {name: drawn[name].png() for name in SLIDES if name in drawn}
