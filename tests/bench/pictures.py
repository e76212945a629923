"""Pictures for the documentation: curves over time as a small SVG, the same for the same figures.

Its ground is transparent and its greys are readable on white as on black. Needs matplotlib, which
nothing else needs: whoever imports this says what is missing without it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

INK = "#808890"
COLOURS = ("#2f81f7", "#e0812c")
WIDTH_IN, PANEL_IN = 8.0, 1.9
SETTINGS = {
    "svg.hashsalt": "stream-daemon",  # names inside the file don't depend on chance
    "svg.fonttype": "none",  # texts stay texts
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.25,
}


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves over one time axis: {what: a figure for each moment}."""

    unit: str
    curves: Mapping[str, Sequence[float]]


def over_time(
    seconds: Sequence[float], panels: Sequence[Panel], ground: tuple[float, float]
) -> str:
    """The panels one below the other, as SVG; `ground`: from when to when it is shaded."""
    with matplotlib.rc_context(SETTINGS):
        figure = Figure((WIDTH_IN, PANEL_IN * len(panels)), layout="constrained")
        every = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(every, panels, strict=True):
            axes.axvspan(*ground, color=INK, alpha=0.12, linewidth=0)
            _draw(axes, seconds, panel)
        every[-1].set_xlabel("seconds")
        every[-1].set_xlim(seconds[0], seconds[-1])
        written = StringIO()
        nothing = {"Date": None, "Creator": None}
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
        return written.getvalue()


def _draw(axes: Axes, seconds: Sequence[float], panel: Panel) -> None:
    for (what, figures), colour in zip(panel.curves.items(), COLOURS, strict=False):
        axes.plot(seconds, figures, color=colour, linewidth=1.3, label=what)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(panel.unit)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderpad=0)
