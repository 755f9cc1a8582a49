"""The page: one HTML file without scripts, which needs no other file."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Sequence

from scripts.reports.html_blocks import Section, note

_STYLE = pathlib.Path(__file__).with_name("page.css")


def page(title: str, subtitle: str, notes: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the page as HTML."""
    links = "\n".join(
        f'<li><a href="#{part.name}">{html.escape(part.title)}</a></li>' for part in sections
    )
    parts = "\n".join(_section(part) for part in sections)
    warnings = "\n".join(note(text) for text in notes)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>{html.escape(title)}</h1>
<p>{html.escape(subtitle)}</p>
{warnings}
<nav aria-label="Contents"><ul>
{links}
</ul></nav>
</header>
<main>
{parts}
</main>
<footer>
<p>All times are by one clock, that of the first parameter server. Only a worker's own time for a
gradient is by the worker's clock.</p>
</footer>
</body>
</html>
"""


def _section(part: Section) -> str:
    body = "\n".join(part.blocks)
    heading = f'<h2 id="{part.name}-heading">{html.escape(part.title)}</h2>'
    return (
        f'<section id="{part.name}" aria-labelledby="{part.name}-heading">\n{heading}\n'
        f"{body}\n</section>"
    )
