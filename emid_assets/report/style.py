"""How figures look, and how they become SVG or PNG.

Belongs here: colours, fonts, sizes and the way to a file's bytes. What a figure shows is in `figures`
and `study_figures`.
"""

import base64
import io
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec
from xml.etree import ElementTree

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

THEME: dict[str, tuple[str, str]] = {
    "ink": ("#1c2127", "#e7eaee"),
    "muted": ("#59636e", "#a6b0bb"),
    "line": ("#d4dae1", "#3a434e"),
    "paper": ("#ffffff", "#191e25"),
    "ground": ("#f3f5f8", "#0f1317"),
    "music": ("#1c66ad", "#74b6f3"),
    "image": ("#b4530c", "#f2a566"),
    "semantic": ("#0a7868", "#52c7b5"),
    "emotional": ("#a63876", "#ec90c3"),
    "accent": ("#5a4ab3", "#ada0f7"),
    "onaccent": ("#fefefe", "#12151a"),
    "warning": ("#8a5300", "#f3c264"),
    "series-0": ("#0072b2", "#52aee6"),
    "series-1": ("#c95500", "#f08a4b"),
    "series-2": ("#00835f", "#3cc79c"),
    "series-3": ("#b0578a", "#e39ac4"),
    "series-4": ("#2f95cc", "#a5dbfa"),
    "series-5": ("#a87400", "#f0c04a"),
    "series-6": ("#6f6f6f", "#b5b5b5"),
    "series-7": ("#1c2128", "#e7eaef"),
}
"""Name → colours on light and on dark. Music is blue and images are orange all over the report;
the pairs of hues stay apart for the common kinds of colour blindness. No two light
colours are equal (some nearly are): `svg` finds a colour's name by its light value."""

_SERIES = 8
"""Lines and systems have the hues of Okabe and Ito, a dash and a marker each: colour is never alone."""

_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_WIDTH = 4.4
"""Inches: narrow, so that text is readable where a phone shows the figure at this size."""


def _light(name: str) -> str:
    return THEME[name][0]


_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "emid-assets",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.0,
    "axes.labelsize": 8.5,
    "text.color": _light("ink"),
    "axes.labelcolor": _light("ink"),
    "axes.titlecolor": _light("ink"),
    "axes.edgecolor": _light("muted"),
    "xtick.color": _light("muted"),
    "ytick.color": _light("muted"),
    "grid.color": _light("line"),
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.4,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}

Args = ParamSpec("Args")

Floats = npt.NDArray[np.float64]


def _styled(draw: Callable[Args, Figure]) -> Callable[Args, Figure]:
    """Draw in the report's style, whatever matplotlib's settings are elsewhere in the process."""

    @wraps(draw)
    def styled(*args: Args.args, **kwargs: Args.kwargs) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_STYLE)
            return draw(*args, **kwargs)

    return styled


def svg(figure: Figure, name: str, alt: str) -> str:
    """The figure as an `<svg>` element for an HTML page.

    Text stays text in the page's own font; the theme's colours become `var(--name)`, so that the
    page's style decides between light and dark; ids carry `name`, so that several figures share
    one page.

    Args:
        figure: drawn by this module.
        name: letters, digits and dashes; unique on the page.
        alt: what the figure says, for readers who cannot see it.
    """
    root = ElementTree.fromstring(_saved(figure, "svg"))
    style = root.find(".//{*}style")
    defs = root.find("{*}defs")
    assert style is not None, "matplotlib writes a style for the whole document"
    assert defs is not None
    root.remove(defs)
    for element in root.iter():
        # In HTML, SVG needs no namespaces; `href` has replaced `xlink:href`.
        element.tag = element.tag.rpartition("}")[2]
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.set(key.rpartition("}")[2], " ".join(value.split()))
    used = set(re.findall(r"#(\w+)", " ".join(value for e in root.iter() for value in e.attrib.values())))
    colours = {light: f"var(--{theme})" for theme, (light, _) in THEME.items()}
    for element in root.iter():
        if element.attrib.get("id") not in used:
            element.attrib.pop("id", None)
        for key, value in element.attrib.items():
            if key == "id":
                value = f"{name}-{value}"
            elif key == "href" and value.startswith("#"):
                value = f"#{name}-{value[1:]}"
            elif key == "clip-path":
                value = value.replace("url(#", f"url(#{name}-")
            elif key == "style":
                value = re.sub(r"font-family:[^;]*;? ?", "", value)
                value = re.sub(
                    r"#[0-9a-f]{6}\b", lambda found: colours.get(found.group(), found.group()), value
                )
            element.set(key, value)
        element.tail = (element.tail or "").strip() or None
        if element.tag not in ("text", "tspan"):
            element.text = (element.text or "").strip() or None
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "aria-label": alt, "style": "stroke-linejoin: round"})
    return ElementTree.tostring(root, encoding="unicode")


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG bytes on a white ground, for places that show no SVG."""
    return _saved(figure, "png", dpi=dpi, facecolor=_light("paper"))


def markdown_image(figure: Figure, alt: str, dpi: int = 110) -> str:
    """The figure as a Markdown image with its bytes inside, for the web UI's metadata."""
    encoded = base64.b64encode(png(figure, dpi)).decode("ascii")
    return f"![{re.sub(r'[][]', '', alt)}](data:image/png;base64,{encoded})"


def _saved(figure: Figure, form: str, **options: Any) -> bytes:
    # No date and no version: the bytes depend on the figure alone.
    names = ("Software",) if form == "png" else ("Date", "Creator", "Format", "Type")
    target = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure.savefig(target, format=form, metadata=dict.fromkeys(names), **options)
    return target.getvalue()


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()
