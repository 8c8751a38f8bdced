"""The forest plot: each arm's difference to the reference, its interval and its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from dermagan_jax import figures

# Okabe-Ito; each verdict also has a marker of its own.
_LOOKS = {
    "helps": ("#009E73", "^"),
    "harms": ("#D55E00", "v"),
    "no difference": ("#0072B2", "s"),
    "no evidence": ("#666666", "o"),
}
_NO_VERDICT = ("#999999", "D")
_ROW_INCHES, _FRAME_INCHES = 0.32, 1.7
_PHANTOM_INCHES = 0.6  # A title of two lines, and the note.


@dataclass(frozen=True)
class Row:
    """One arm in the plot, in percentage points.

    Attributes:
      name: the arm's.
      value: its difference to the reference.
      low: lower end of the interval.
      high: upper end.
      seeds: the difference of each of the arm's classifiers to the reference's mean.
      verdict: in words; None for an arm without one.
    """

    name: str
    value: float
    low: float
    high: float
    seeds: Sequence[float]
    verdict: str | None


def draw(rows: Sequence[Row], path: Path, *, margin: float, phantom: bool) -> Path:
    """Draws the arms from top to bottom.

    Args:
      rows: at least one.
      path: the PNG to write; its folder must exist.
      margin: the difference that would matter, in points; drawn as a band about 0.
      phantom: marks the figure as made from phantoms.

    Returns:
      The path written.
    """
    height = _FRAME_INCHES + _ROW_INCHES * len(rows) + phantom * _PHANTOM_INCHES
    title = "Balanced accuracy less that of what each is compared with"
    figure, axes = figures.new_figure(title, height_inches=height, phantom=phantom)
    axes.axvspan(-margin, margin, color="#EEEEEE", zorder=0)
    axes.axvline(0, color=figures.INK, linewidth=1)
    for place, row in enumerate(rows):
        _draw_row(axes, row, place)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=figures.TEXT_POINTS)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(
        f"percentage points\nbars: 95% intervals; dots: classifiers\nband: ±{margin:g}",
        fontsize=figures.NOTE_POINTS,
    )
    shown = {row.verdict for row in rows}
    for verdict, (colour, marker) in _LOOKS.items():
        if verdict in shown:
            axes.plot([], [], marker, color=colour, label=verdict)
    if None in shown:
        colour, marker = _NO_VERDICT
        axes.plot([], [], marker, color=colour, label="without a verdict")
    # From the right end on, since long names of arms leave the axes little width.
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=3,
        frameon=False,
        fontsize=figures.NOTE_POINTS,
    )
    return figures.save(figure, path)


def _draw_row(axes: Axes, row: Row, place: int) -> None:
    colour, marker = _LOOKS[row.verdict] if row.verdict else _NO_VERDICT
    axes.plot(
        row.seeds, [place + 0.22] * len(row.seeds), ".", color=colour, alpha=0.5, markersize=4
    )
    axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2)
    axes.plot([row.value], [place], marker, color=colour, markersize=7)
