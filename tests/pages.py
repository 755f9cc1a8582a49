"""README.md and the pages of docs/: their text, and the code on them."""

from __future__ import annotations

import functools
import pathlib
import re
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    code: str


@functools.cache
def blocks(page: pathlib.Path) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [Block(*each) for each in found]


@functools.cache
def prose(page: pathlib.Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def spans(page: pathlib.Path) -> list[str]:
    """Return the text in backticks, each as one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def code(page: pathlib.Path) -> list[str]:
    """Return all code on a page: lines of blocks, and text in backticks."""
    return [line for block in blocks(page) for line in block.code.splitlines()] + spans(page)


# Keys name snippets in messages: the page, and the number of the snippet on it.
SNIPPETS = {
    f"{page.relative_to(ROOT)} {number}": block.code
    for page in PAGES
    for number, block in enumerate(
        [block for block in blocks(page) if block.language == "python"], start=1
    )
}
