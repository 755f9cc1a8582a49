"""Blocks of a page: HTML of which every text is escaped."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Sequence

from scripts.reports.drawing import Picture


@dataclasses.dataclass
class Section:
    """A part of the page.

    Attributes:
      name: its anchor.
      title: its heading.
      blocks: HTML of its content.
      pictures: pictures in it.
    """

    name: str
    title: str
    blocks: list[str] = dataclasses.field(default_factory=list)
    pictures: list[Picture] = dataclasses.field(default_factory=list)

    def say(self, *sentences: str) -> None:
        """Add a paragraph."""
        self.blocks.append(paragraph(" ".join(filter(None, sentences))))

    def show(self, *pictures: Picture, beside: str = "") -> None:
        """Add pictures, and a table or nothing, side by side where there is room."""
        self.pictures += pictures
        figures = "\n".join(_figure(picture) for picture in pictures)
        more = f"\n<div>{beside}</div>" if beside else ""
        self.blocks.append(f'<div class="pictures">\n{figures}{more}\n</div>')


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{html.escape(text)}</p>"


def table(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[int] = ()
) -> str:
    """Return a table, which scrolls by itself if the screen is narrow.

    Args:
      caption: its caption.
      header: headings of its columns.
      rows: its cells; the first of each row is the row's heading.
      words: columns that are text, not numbers.
    """

    def cells(tag: str, row: Sequence[str], first: str) -> str:
        found = [f"<{first}>{html.escape(row[0])}</{first[:2]}>"]
        for column, cell in enumerate(row[1:], start=1):
            kind = _class("words" if column in words else "")
            scope = ' scope="col"' if tag == "th" else ""
            found.append(f"<{tag}{scope}{kind}>{html.escape(cell)}</{tag}>")
        return f"<tr>{''.join(found)}</tr>"

    top = cells("th", header, 'th scope="col"')
    body = "\n".join(cells("td", row, 'th scope="row"') for row in rows)
    label = html.escape(caption)
    return (
        f'<p class="caption">{label}</p>\n'
        f'<div class="table" role="region" tabindex="0" aria-label="{label}">\n'
        f'<table aria-label="{label}">\n<thead>{top}</thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, str]], kind: str = "") -> str:
    """Return a list of names and values."""
    items = "\n".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in pairs
    )
    return f"<dl{_class(kind)}>\n{items}\n</dl>"


def note(text: str) -> str:
    """Return a note that stands out."""
    return f'<p class="note" role="note">{html.escape(text)}</p>'


def _figure(picture: Picture) -> str:
    caption = html.escape(picture.shows)
    return f"<figure>\n{picture.svg}\n<figcaption>{caption}</figcaption>\n</figure>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
