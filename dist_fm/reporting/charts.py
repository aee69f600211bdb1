"""Small charts as SVG, drawn by matplotlib, for the width of a phone: their legends are text of the page."""

import contextlib
import dataclasses
import importlib
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555")  # Okabe and Ito's
GREY = "#888888"
_INCHES, _AXES = (3.7, 2.5), (0.155, 0.165, 0.79, 0.8)
_FEW = 30  # points, which are shown as such
_IDS = re.compile(
    r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|PathCollection|PolyCollection)_\d+"'
)


@dataclasses.dataclass(frozen=True)
class Series:
    """Points [P] under a ``name``; ``how``: line, steps, points, bars (x are the P + 1 edges) or dashes."""

    name: str
    x: np.ndarray
    y: np.ndarray
    how: str = "line"
    colour: str | None = None


@dataclasses.dataclass(frozen=True)
class Chart:
    """``svg`` is markup by itself; ``legend``: names and colours."""

    title: str
    svg: str
    legend: list[tuple[str, str]]


def draw(
    title: str,
    series: Sequence[Series],
    *,
    x: str,
    y: str = "",
    square: bool = False,
    from_zero: bool = False,
    mark: float | None = None,
) -> Chart:
    """A chart of ``series`` over the axis ``x``.

    ``square``: both axes from 0 to 1; ``from_zero``: the y axis from 0; ``mark``: a place on x, dashed.
    """
    coloured = [
        dataclasses.replace(one, colour=one.colour or COLOURS[i % len(COLOURS)]) for i, one in enumerate(series)
    ]
    with _figure() as (figure, axes):
        for one in coloured:
            _add(axes, one)
        if mark is not None:
            axes.axvline(mark, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        if square:
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(x, fontsize=8.5, labelpad=2)
        axes.set_ylabel(y, fontsize=8.5, labelpad=2)
        axes.grid(True, color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8.5, length=2.5, color=GREY)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(nbins=5)
            axis.set_major_formatter(_short)
        if x == "step":
            axes.xaxis.get_major_locator().set_params(integer=True)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return Chart(title, _inline(file.getvalue(), title), [(one.name, str(one.colour)) for one in coloured])


@contextlib.contextmanager
def _figure() -> Iterator[tuple[Any, Any]]:
    matplotlib, figures = importlib.import_module("matplotlib"), importlib.import_module("matplotlib.figure")
    canvas = importlib.import_module("matplotlib.backends.backend_svg").FigureCanvasSVG
    # Text stays text, and no name is read as mathematics.
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    settings = {"svg.fonttype": "none", "text.parse_math": False, "svg.hashsalt": "dist_fm", "path.simplify": True}
    with matplotlib.rc_context({**defaults, **settings, "font.sans-serif": ["DejaVu Sans"]}):
        figure = figures.Figure(_INCHES)
        canvas(figure)
        yield figure, figure.add_axes(_AXES)


def _add(axes: Any, one: Series) -> None:
    marker = "o" if len(one.x) <= _FEW else None
    if one.how == "bars":
        axes.stairs(one.y, one.x, fill=True, color=one.colour, alpha=0.35)
        axes.stairs(one.y, one.x, color=one.colour, linewidth=1.2)
    elif one.how == "points":
        axes.plot(one.x, one.y, ".", color=one.colour, markersize=2.5, alpha=0.5)
    elif one.how == "dashes":
        axes.plot(one.x, one.y, color=one.colour, linewidth=1, linestyle=(0, (4, 3)))
    else:
        style = "steps-pre" if one.how == "steps" else "default"
        axes.plot(one.x, one.y, color=one.colour, linewidth=1.4, marker=marker, markersize=3, drawstyle=style)


def _short(number: float, _: Any = None) -> str:
    """`20k`, `1.5M`, `3e-05`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            return f"{number / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{round(number, 12):g}"


def _inline(svg: str, title: str) -> str:
    """The element alone, as wide as its place, without the ids that nothing refers to, which charts would share."""
    svg = _IDS.sub("", svg[svg.index("<svg") :])
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    return re.sub(
        r'<svg ([^>]*?)height="[^"]*"([^>]*?)width="[^"]*"', rf'<svg role="img" aria-label="{title}" \1\2', svg, count=1
    )
