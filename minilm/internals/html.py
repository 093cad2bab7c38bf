"""What the pages share: escaping, the skeleton of a page, tables and bars.

A page is one file that asks nothing of a network: its policy (``Content-Security-Policy``) forbids
every request, and runs no script but the page's own, known by its hash. All text from outside goes
through :func:`escape`.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from minilm.terminal import visible

# An HTML fragment: text that is escaped already.
Html: TypeAlias = str


def escape(text: str, most: int | None = None) -> Html:
    """A text from outside, :func:`visible`, safe between tags and in quoted attributes, and isolated
    from the direction of what stands around it."""
    return f"<bdi>{html.escape(visible(text, most))}</bdi>"


def page(title: str, body: Html, script: str = "", style: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        body: what the page holds, escaped.
        script: JavaScript of the page's own; without ``</script`` in it.
        style: further CSS; selectors begin with ``.minilm``.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(visible(title))}</title>\n</head>\n<body>\n{fragment(body, style)}\n"
        + (f"<script>{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def fragment(body: Html, style: str = "") -> Html:
    """The same without a page around it, as a notebook shows it; its style ends at its edge."""
    return f'<style>{STYLE}{style}</style>\n<main class="minilm">\n{body}\n</main>'


def table(head: Sequence[str], rows: Iterable[Sequence[Html]], numbers: int | None = None, caption: str = "") -> Html:
    """A table that scrolls sideways by itself where the page is narrow.

    Args:
        head: the columns' names, plain text.
        rows: cells, escaped; the first of each row is its header.
        numbers: so many of the last columns are numbers; None: all but the first.
        caption: plain text.
    """
    first_number = 1 if numbers is None else len(head) - numbers
    kinds = [' class="n"' if i >= first_number else "" for i in range(len(head))]
    lines = ["".join(f'<th scope="col"{kind}>{html.escape(cell)}</th>' for kind, cell in zip(kinds, head, strict=True))]
    for row in rows:
        cells = [f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True)]
        lines.append(f'<th scope="row"{kinds[0]}>{row[0]}</th>' + "".join(cells))
    shown = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    body = "".join(f"<tr>{line}</tr>\n" for line in lines[1:])
    label = html.escape(caption or ", ".join(filter(None, head)))
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table>{shown}\n'
        f"<thead><tr>{lines[0]}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def text_cell(text: str, most: int | None = None) -> Html:
    """A text from outside, :func:`escape`, for a table's cell: it is wrapped, within words if need be."""
    return f'<div class="text">{escape(text, most)}</div>'


def bar(share: float) -> Html:
    """A bar, filled from the left to ``share``, 0 to 1. The number itself stands beside it."""
    width = 100 * min(max(share, 0.0), 1.0)
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="groove" width="100" height="10"/><rect class="filled" width="{width:.2f}" height="10"/></svg>'
    )


STYLE = """
.minilm { color-scheme: light dark; --ink: #1d2129; --dim: #5b6470; --paper: #fff; --line: #d8dce2; --soft: #f3f5f8;
  --mark: #2563b0; --more: #1a7f4b; --less: #b3372b;
  color: var(--ink); background: var(--paper); font: 15px/1.5 system-ui, sans-serif; max-width: 70rem;
  margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) {
  .minilm { --ink: #e4e7eb; --dim: #9da7b3; --paper: #15181d; --line: #363c45; --soft: #1f242b;
    --mark: #6aa8f0; --more: #5cc48c; --less: #f08a7e; }
  body:has(> .minilm) { background: #15181d; }
}
body:has(> .minilm) { margin: 0; }
.minilm h1 { font-size: 1.5rem; line-height: 1.25; margin: .2em 0; }
.minilm h2 { font-size: 1.15rem; margin: 2em 0 .4em; border-top: 1px solid var(--line); padding-top: .8em; }
.minilm p { margin: .4em 0; max-width: 48rem; }
.minilm .dim, .minilm caption { color: var(--dim); }
.minilm .verdict { background: var(--soft); border-left: 4px solid var(--mark); padding: .7em 1em; font-weight: 600; }
.minilm .more { color: var(--more); } .minilm .less { color: var(--less); }
.minilm a { color: var(--mark); }
.minilm nav { display: flex; flex-wrap: wrap; gap: .2em 1em; }
.minilm .wide { overflow-x: auto; margin: .6em 0; }
.minilm table { border-collapse: collapse; font-size: .9rem; }
.minilm caption { text-align: left; padding-bottom: .2em; }
.minilm th, .minilm td { text-align: left; padding: .2em .7em .2em 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-weight: 400; min-width: 2.5em; overflow-wrap: break-word; }
.minilm .text { min-width: 12rem; overflow-wrap: anywhere; }
.minilm thead th { color: var(--dim); vertical-align: bottom; }
.minilm .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.minilm code { font: .95em ui-monospace, monospace; }
.minilm .bar { width: 6rem; height: .6rem; display: inline-block; }
.minilm .groove { fill: var(--soft); } .minilm .filled { fill: var(--mark); }
.minilm summary { cursor: pointer; color: var(--mark); padding: .3em 0; }
.minilm :focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
"""
