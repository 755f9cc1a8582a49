"""Style of the pictures, and how they become SVG that fits light and dark pages.

Lines and text are drawn in one color that becomes the text color of the page. Whatever a color
says, a hatch, a marker or a label says too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import html
import io
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import matplotlib
import matplotlib.figure

from tf_backup.timeline.schema import VERDICTS

INK = "#010203"  # Becomes the color of the page's text.
WIDTH = 4.6  # Inches: on a phone, text is then still about 10 pixels high.

_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
    "font.size": 10.2,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "svg.fonttype": "none",
}
_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
# For a picture in a file of its own.
_ALONE = (
    "<style>svg{color:#1b1f24;color-scheme:light dark}"
    "@media (prefers-color-scheme:dark){svg{color:#e6e6e6}}</style>"
)


class Look(NamedTuple):
    """How an area of one kind looks, and its name."""

    name: str
    color: str
    hatch: str


# By verdict, and last what is none: waiting.
LOOKS = (
    Look("used", "#3f86d6", ""),
    Look("late", "#e3a234", "///"),
    Look("stale", "#d0603a", "\\\\\\"),
    Look("duplicate", "#9a72c7", "++"),
    Look("not finite", "#3fa27a", "..."),
    Look("lost", "#c2467f", "xxx"),
    Look("waiting or away", "none", ""),
)
assert len(LOOKS) == len(VERDICTS) + 1

# For lines, from light to heavy: dashes and markers tell them apart without their colors.
LINES = ("#3f86d6", "#e3a234", "#3fa27a", "#9a72c7", "#d0603a", "#c2467f", "#808890")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 2)))


@dataclasses.dataclass(frozen=True)
class Picture:
    """A drawn picture.

    Attributes:
      name: name of its file, without the ending.
      title: what it shows, in a few words; also in the picture.
      shows: sentences under it, which say what to see.
      svg: the picture as an SVG element, for a page.
    """

    name: str
    title: str
    shows: str
    svg: str

    @property
    def file(self) -> str:
        """The picture as an SVG file of its own."""
        declaration = '<?xml version="1.0" encoding="utf-8"?>\n'
        return declaration + self.svg.replace("</desc>", f"</desc>{_ALONE}", 1) + "\n"


class Canvas:
    """A figure that becomes a picture when its block ends."""

    def __init__(self, figure: Any) -> None:
        self.figure = figure
        self.axes = figure.add_subplot()
        self.svg = ""


@contextlib.contextmanager
def canvas(name: str, title: str, description: str, height: float = 2.9) -> Iterator[Canvas]:
    """Give an empty figure to draw in, whose `svg` is there after the block.

    Args:
      name: name of the picture, unique on the page.
      title: its title.
      description: what it shows, for those who cannot see it.
      height: height in inches.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # A user's own style may not fit both light and dark pages.
        parameters: Any = matplotlib.rcParams
        parameters.update({**_STYLE, "svg.hashsalt": name})
        figure = matplotlib.figure.Figure(figsize=(WIDTH, height), layout="constrained")
        drawn = Canvas(figure)
        drawn.axes.set_title(title)
        yield drawn
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata=_METADATA)
        drawn.svg = _for_page(text.getvalue(), name, title, description)


def legend(axes: Any, columns: int, handles: Any = None) -> None:
    """Put a legend under the picture, where it covers nothing."""
    given = {} if handles is None else {"handles": handles}
    axes.figure.legend(loc="outside lower center", ncols=columns, **given)


def _for_page(svg: str, name: str, title: str, description: str) -> str:
    """Return an SVG element with unique ids, the page's text color, and a text alternative."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{name}-\1"', svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    labels = f'role="img" aria-labelledby="{name}-title {name}-desc"'
    alternative = (
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-desc">{html.escape(description)}</desc>'
    )
    return re.sub(
        r"<svg([^>]*)>",
        lambda found: f"<svg {labels}{found[1]}>\n{alternative}",
        svg,
        count=1,
    ).strip()
