"""matplotlib's SVG as a part of a page: in the page's colours and font, with ids that no other plot has."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import style
from matplotlib.figure import Figure

from .looks import PREFIX, drawn, variable

WIDTH = 540  # pixels: half of a wide page, all of a narrow one
_PIXELS_PER_INCH = 72  # so that a point, the unit of matplotlib's sizes, is a pixel

# Widths are measured with matplotlib's own font, which is wider than what pages are read in.
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.labelsize": 12,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "hatch.linewidth": 0.8,
    "text.color": drawn("ink"),
    "axes.labelcolor": drawn("muted"),
    "axes.edgecolor": drawn("rule"),
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": drawn("grid"),
    "grid.linewidth": 1,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": drawn("rule"),
    "ytick.color": drawn("rule"),
    "xtick.labelcolor": drawn("muted"),
    "ytick.labelcolor": drawn("muted"),
    "ytick.major.size": 0,
    "ytick.major.pad": 7,
    "figure.constrained_layout.w_pad": 0.02,
    "figure.constrained_layout.h_pad": 0.05,
}


def plot(name: str, title: str, height: float, paint: Callable[[Figure], None], width: float = WIDTH) -> Markup:
    """What `paint` leaves in a figure of this size in pixels.

    Args:
        name: in the plot's ids; unique in the page.
        title: what it shows, for those who do not see it; "": the text beside it says it.
    """
    with style.context(["default", {**_STYLE, "svg.hashsalt": name}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser has others
        figure = Figure((width / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH), _PIXELS_PER_INCH, layout="constrained")
        paint(figure)
        settle(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _inlined(ElementTree.fromstring(file.getvalue()), name, title)


def settle(figure: Figure) -> None:
    """Gives axes their final places, once: what is drawn afterwards changes them no more."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine(None)


def _inlined(svg: ElementTree.Element, name: str, title: str) -> Markup:
    for parent in svg.iter():
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):  # matplotlib's style would hold for the whole page
                parent.remove(child)
    for element in svg.iter():
        element.tag = _local(element.tag)
        element.attrib = dict(_mended(_local(key), value, element.tag, name) for key, value in element.attrib.items())
    svg.attrib = {"id": name, "viewBox": svg.attrib["viewBox"], "class": "plot"}
    if not title:
        svg.set("aria-hidden", "true")
    else:
        svg.attrib |= {"role": "img", "aria-labelledby": f"{name}-title"}
        words = ElementTree.Element("title", {"id": f"{name}-title"})
        words.text = title
        svg.insert(0, words)
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _mended(key: str, value: str, tag: str, name: str) -> tuple[str, str]:
    """An attribute with variables for colours, without the family of its font, and with the plot's name in its ids.

    Groups are numbered in each plot alike, and nothing refers to them: theirs become classes.
    """
    if key == "id":
        return ("class", re.sub(r"_\d+$", "", value)) if tag == "g" else ("id", f"{name}-{value}")
    if key == "href":
        return key, value.replace("#", f"#{name}-")
    value = re.sub(PREFIX + "[0-9a-f]{2}", lambda found: variable(found[0]), value.replace("url(#", f"url(#{name}-"))
    return key, re.sub(
        r"font-family: [^;]*; ", "", re.sub(r"font: ([\d.]+px) ([^;]*)", r"font-size: \1; font-family: \2", value)
    )
