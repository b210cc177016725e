"""What does the page look like? One HTML file: its style, and the frame around the sections.

Nothing is loaded from anywhere: the style is here, the pictures are data URIs, and there is no script. Colours are
variables with a light and a dark set, so that figures follow the reader's scheme; widths are fluid, so that a phone
gets the same page.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #faf9f6; --card: #ffffff; --ink: #1d1e22; --dim: #676a73; --line: #e4e1da;
  --grid: #eceae4; --none: #868b98; --hard: #2c6bd6; --soft: #cf5a1e; --teacher: #23845a;
  --good: #1d7f52; --bad: #b83a3a; --accent: #cf5a1e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121317; --card: #191b20; --ink: #e7e7ea; --dim: #989ba6; --line: #2b2d35; --grid: #24262d;
    --none: #8e94a3; --hard: #79aaff; --soft: #ff9a61; --teacher: #5dcb97;
    --good: #62cc99; --bad: #f08080; --accent: #ff9a61;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55; font-size: 17px;
  font-family: ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 60rem; margin: 0 auto; padding: 3.5rem 1.5rem 5rem; }
header { margin-bottom: 2.5rem; }
.kicker { color: var(--dim); font-size: .82rem; letter-spacing: .08em; text-transform: uppercase; margin: 0 0 .6rem; }
h1 {
  font-family: ui-serif, "Iowan Old Style", Charter, Georgia, "Noto Serif", "DejaVu Serif", serif;
  font-weight: 600; font-size: clamp(1.9rem, 5.2vw, 3rem); line-height: 1.12; letter-spacing: -.015em; margin: 0 0 1rem;
  text-wrap: balance;
}
h1 em { font-style: normal; color: var(--accent); white-space: nowrap; }
h2 {
  font-family: ui-serif, "Iowan Old Style", Charter, Georgia, "Noto Serif", "DejaVu Serif", serif;
  font-weight: 600; font-size: 1.5rem; line-height: 1.25; letter-spacing: -.01em; margin: 0 0 .5rem;
}
h3 { font-size: .95rem; font-weight: 600; margin: 1.6rem 0 .5rem; }
p { max-width: 42rem; margin: 0 0 1rem; text-wrap: pretty; }
.lead { font-size: 1.13rem; }
.note, figcaption { color: var(--dim); font-size: .88rem; line-height: 1.5; max-width: 44rem; }
section { border-top: 1px solid var(--line); padding-top: 2rem; margin-top: 3rem; }
a { color: inherit; text-decoration-color: var(--dim); text-underline-offset: .15em; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .86em; }
pre {
  background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .9rem 1rem; overflow-x: auto;
  line-height: 1.45; font-size: .86rem; margin: 0 0 1rem;
}
figure { margin: 1.5rem 0 0; }
figcaption { margin-top: .8rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1.5rem 2.5rem; }

.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem; margin: 2rem 0 0; }
.card {
  background: var(--card); border: 1px solid var(--line); border-top: 3px solid var(--c); border-radius: .5rem;
  padding: .8rem 1rem .9rem;
}
.card dt { color: var(--dim); font-size: .86rem; }
.card dd { margin: 0; font-size: 1.95rem; font-weight: 600; letter-spacing: -.02em; line-height: 1.25; }
.card dd small { font-size: .9rem; font-weight: 400; color: var(--dim); letter-spacing: 0; margin-left: .25rem; }
.card div { font-size: .86rem; color: var(--dim); }
.card div b { color: var(--c); font-weight: 600; }

.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; font-size: .88rem; margin: 0 0 .8rem; }
.legend span { display: inline-flex; align-items: center; gap: .45rem; }
.legend i { width: 1.1rem; height: .22rem; border-radius: 1px; }

.strips { margin-top: .5rem; font-size: .92rem; padding-bottom: .4rem; }
.strip-title { font-weight: 600; margin: 1rem 0 .15rem; }
.strip { display: grid; grid-template-columns: 9.2rem 1fr 6.2rem; gap: 0 1rem; align-items: center; height: 1.75rem; }
.strip-name { color: var(--dim); white-space: nowrap; }
.strip-text { text-align: right; white-space: nowrap; }
.strong .strip-name, .strong .strip-text { color: var(--ink); font-weight: 600; }
.track { position: relative; height: 100%; }
.track i { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--grid); }
.track b { position: absolute; top: 0; bottom: 0; width: 0; border-left: 2px dotted var(--teacher); margin-left: -1px; }
.track u {
  position: absolute; top: 18%; bottom: 18%; width: 3px; margin-left: -1.5px; background: var(--c); border-radius: 2px;
}
.track s {
  position: absolute; top: 50%; width: .62rem; height: .62rem; margin: -.31rem 0 0 -.31rem; border-radius: 50%;
  background: var(--c); opacity: .55;
}
.strip-axis { display: grid; grid-template-columns: 9.2rem 1fr 6.2rem; gap: 0 1rem; }
.strip-axis > div { grid-column: 2; position: relative; height: 2.6rem; font-size: .78rem; color: var(--dim); }
.strip-axis span, .strip-axis strong {
  position: absolute; transform: translateX(-50%); top: .3rem; white-space: nowrap;
}
.strip-axis strong { top: 1.4rem; color: var(--teacher); font-weight: 600; }

.chart {
  display: grid; grid-template-columns: 3.2rem 1fr; grid-template-rows: auto 13rem 1.3rem auto; font-size: .78rem;
  color: var(--dim); min-width: 0;
}
.y-name { grid-column: 1 / 3; margin-bottom: .5rem; color: var(--ink); font-size: .88rem; font-weight: 600; }
.y { grid-column: 1; grid-row: 2; position: relative; }
.y span { position: absolute; right: .5rem; transform: translateY(50%); white-space: nowrap; }
.area { grid-column: 2; grid-row: 2; position: relative; min-width: 0; }
.area > i { position: absolute; left: 0; right: 0; height: 1px; background: var(--grid); }
.area svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.area polyline {
  fill: none; stroke-width: 2.4; stroke-linejoin: round; stroke-linecap: round; vector-effect: non-scaling-stroke;
}
.area polyline.faint { stroke-width: 1; opacity: .35; }
.area s { position: absolute; width: .5rem; height: .5rem; margin: 0 0 -.25rem -.25rem; border-radius: 50%; }
.area .rule { position: absolute; left: 0; right: 0; height: 0; border-top: 2px dotted var(--teacher); }
.area .rule em {
  position: absolute; right: 0; bottom: .1rem; font-style: normal; font-weight: 600; color: var(--teacher);
}
.x { grid-column: 2; grid-row: 3; position: relative; }
.x span { position: absolute; transform: translateX(-50%); top: .35rem; }
.x-name { grid-column: 2; grid-row: 4; text-align: right; margin-top: .2rem; }

.scroll { overflow-x: auto; margin: 1.2rem 0 0; }
table { border-collapse: collapse; font-size: .92rem; min-width: 100%; }
caption { text-align: left; color: var(--dim); font-size: .88rem; padding-bottom: .5rem; }
th, td {
  padding: .42rem 1.2rem .42rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
}
th:last-child, td:last-child { padding-right: 0; }
th:first-child { text-align: left; white-space: normal; min-width: 8rem; }
thead th { color: var(--dim); font-weight: 500; vertical-align: bottom; }
tbody th { font-weight: 400; }
tbody th i { display: inline-block; width: .62rem; height: .62rem; border-radius: 50%; margin-right: .5rem; }
td b, td strong { font-weight: 600; }

.shelf { margin-top: 1.3rem; }
.shelf h3 { margin: 0 0 .5rem; }
.tiles { display: grid; grid-template-columns: repeat(8, 1fr); gap: .9rem .7rem; }
.tile img {
  display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: .35rem; background: var(--grid);
}
.tile img.small { image-rendering: pixelated; }
.tile dl {
  margin: .35rem 0 0; font-size: .76rem; line-height: 1.4; display: grid; grid-template-columns: auto 1fr; gap: 0 .4rem;
}
.tile dt { color: var(--dim); }
.tile dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
.tile dd.good { color: var(--good); font-weight: 600; }
.tile dd.bad { color: var(--bad); font-weight: 600; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--dim); font-size: .92rem; }
details pre { margin-top: .8rem; }

@media (max-width: 40rem) {
  th, td { white-space: normal; padding-right: .7rem; vertical-align: top; }
  body { font-size: 16px; }
  main { padding: 2rem 1.1rem 3rem; }
  .lead { font-size: 1.05rem; }
  .strip, .strip-axis { grid-template-columns: 5.4rem 1fr 5.1rem; gap: 0 .6rem; }
  .strip { font-size: .84rem; }
  .chart { grid-template-columns: 2.7rem 1fr; grid-template-rows: auto 11rem 1.3rem auto; }
  .tiles { grid-template-columns: repeat(4, 1fr); gap: .8rem .55rem; }
}
@media print { section { break-inside: avoid; } body { background: none; } }
"""


def section(title: str, *parts: str, anchor: str = "") -> str:
    """A titled part of the page."""
    name = f' id="{anchor}"' if anchor else ""
    return f"<section{name}><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of HTML."""
    return f'<p class="{kind}">{text}</p>' if kind else f"<p>{text}</p>"


def figure(body: str, caption: str) -> str:
    """A figure and what there is to see in it."""
    return f"<figure>{body}<figcaption>{caption}</figcaption></figure>"


def page(title: str, parts: Iterable[str]) -> str:
    """The whole file."""
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{''.join(f'{part}{chr(10)}' for part in parts)}</main></body></html>\n"
    )
