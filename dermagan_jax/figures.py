"""Charts as PNG files: counts, confusion matrices, curves, calibration, values with intervals.

All are drawn with the Okabe-Ito palette, which readers with colour-blindness can tell apart
(Okabe and Ito, "Color Universal Design", 2008), and never rely on colour alone. They use
`matplotlib.figure.Figure` and the Agg canvas directly, so that `pyplot`'s global state, and a
caller's own figures, stay as they are. The same arguments give the same bytes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from dermagan_jax import images, lesions

CLASS_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7")
"""Okabe-Ito orange, sky blue, bluish green, reddish purple: one a lesion class, in label order."""

LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", "-.", ":")

_DPI = 150
_WIDTH_INCHES = 6.0
INK, MUTED = "#222222", "#666666"
_TITLE_POINTS, TEXT_POINTS, NOTE_POINTS = 12, 10, 9
_TITLE_CHARACTERS = 60  # more do not fit the width
_MARKER_LIMIT = 30  # longer series are lines alone
_HATCH = "////"


def class_counts(
    counts: Mapping[str, int], path: str | Path, *, title: str, phantom: bool = False
) -> Path:
    """Draws the doughnut of images per class, with the total in its middle.

    Args:
      counts: images of each class, in the order to draw; not all zero, none negative.
      path: the PNG to write; its folder must exist.
      title: the figure's title.
      phantom: marks the figure as made from phantoms.

    Returns:
      The path written.

    Raises:
      DermaganError: the file cannot be written (so for every figure).
      ValueError: no images, or a negative count.

    Source:
      The paper's doughnut of class counts, drawn from this run's own data.
    """
    total = sum(counts.values())
    if total <= 0 or min(counts.values()) < 0:
        raise ValueError(f"counts must be non-negative and not all zero, got {dict(counts)}")
    figure, axes = new_figure(title, height_inches=3.8, phantom=phantom)
    wedges, _ = axes.pie(
        list(counts.values()),
        colors=_class_colours(list(counts)),
        startangle=90,
        counterclock=False,
        wedgeprops={"width": 0.42, "edgecolor": "white", "linewidth": 2},
    )
    axes.text(0, 0, f"{total:,}\nimages", ha="center", va="center", fontsize=_TITLE_POINTS)
    axes.legend(
        wedges,
        [f"{_words(name)}\n{n:,} ({n / total:.1%})" for name, n in counts.items()],
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        labelspacing=0.9,
        fontsize=TEXT_POINTS,
    )
    return save(figure, path)


def split_counts(
    counts: Mapping[str, Mapping[str, int]],
    path: str | Path,
    *,
    generated: Mapping[str, int] | None = None,
    title: str,
    phantom: bool = False,
) -> Path:
    """Draws one bar per class in each split; generated images are hatched, on top of train.

    Args:
      counts: real images, `{split: {class: n}}`; every split lists the same classes.
      path: the PNG to write; its folder must exist.
      generated: generated images of each class, which join the split named `train`, or None.
      title: the figure's title.
      phantom: marks the figure as made from phantoms.

    Returns:
      The path written.

    Raises:
      ValueError: splits with different classes, or generated images without a train split or of
        a class that the splits lack.

    Source:
      The paper's stacked bars of real and generated images by split.
    """
    splits = list(counts)
    classes = list(counts[splits[0]]) if splits else []
    if not classes or any(set(of_split) != set(classes) for of_split in counts.values()):
        raise ValueError(f"every split needs the same classes, got {dict(counts)}")
    if generated and ("train" not in counts or not set(generated) <= set(classes)):
        raise ValueError(f"generated images need a train split with their classes: {generated}")
    figure, axes = new_figure(title, height_inches=4.2, phantom=phantom)
    _plain_axes(axes)
    spacing = 0.84 / len(classes)
    for index, (name, colour) in enumerate(zip(classes, _class_colours(classes), strict=True)):
        x = np.arange(len(splits)) + (index - (len(classes) - 1) / 2) * spacing
        real = np.array([counts[split][name] for split in splits])
        added = np.array([(generated or {}).get(name, 0) * (split == "train") for split in splits])
        axes.bar(x, real, 0.92 * spacing, color=colour, label=_words(name))
        axes.bar(
            x, added, 0.92 * spacing, bottom=real, color="white", edgecolor=colour, hatch=_HATCH
        )
        for place, total in zip(x, real + added, strict=True):
            axes.text(place, total, f"{total:,}", ha="center", va="bottom", fontsize=NOTE_POINTS)
    _legend_above(axes, with_generated=bool(generated))
    axes.set_xticks(range(len(splits)), splits)
    axes.set_ylabel("images", fontsize=TEXT_POINTS)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return save(figure, path)


def confusion_matrix(
    matrix: np.ndarray | Sequence[Sequence[int]],
    classes: Sequence[str],
    path: str | Path,
    *,
    title: str,
    phantom: bool = False,
) -> Path:
    """Draws a confusion matrix: each cell's count and its percentage of the row.

    Args:
      matrix: [K, K] counts >= 0; rows are the true classes, columns the predicted.
      classes: K names, in the matrix's order.
      path: the PNG to write; its folder must exist.
      title: the figure's title.
      phantom: marks the figure as made from phantoms.

    Returns:
      The path written.

    Raises:
      ValueError: the matrix is not [K, K] for K classes, or has a negative cell.
    """
    cells = np.asarray(matrix)
    size = len(classes)
    if cells.shape != (size, size) or size == 0 or (cells < 0).any():
        raise ValueError(f"matrix must be [{size}, {size}] counts, got shape {cells.shape}")
    shares = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
    figure, axes = new_figure(title, height_inches=5.0, phantom=phantom)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(size, size):
        axes.text(
            column,
            row,
            f"{cells[row, column]:,}\n{shares[row, column]:.0%}",
            ha="center",
            va="center",
            fontsize=TEXT_POINTS,
            color="white" if shares[row, column] > 0.55 else INK,
        )
    names = [_words(name).replace(" ", "\n") for name in classes]
    axes.set_xticks(range(size), names, fontsize=TEXT_POINTS)
    axes.set_yticks(range(size), names, fontsize=TEXT_POINTS)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted class", fontsize=TEXT_POINTS)
    axes.set_ylabel("true class", fontsize=TEXT_POINTS)
    axes.spines[:].set_visible(False)
    return save(figure, path)


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float | None]]],
    path: str | Path,
    *,
    ylabel: str,
    title: str,
    xlabel: str = "step",
    phantom: bool = False,
) -> Path:
    """Draws one line per series; None or a value that is not finite leaves a gap.

    Args:
      series: `{name: (steps, values)}`, both [n]; the name says what was measured (for example
        `training` or `validation`).
      path: the PNG to write; its folder must exist.
      ylabel: what the values are, with the unit.
      title: the figure's title.
      xlabel: what the steps are.
      phantom: marks the figure as made from phantoms.

    Returns:
      The path written.

    Raises:
      ValueError: no series, or steps and values of different length.
    """
    if not series:
        raise ValueError("curves needs at least one series")
    figure, axes = new_figure(title, height_inches=3.6, phantom=phantom)
    _plain_axes(axes)
    for index, (name, (steps, values)) in enumerate(series.items()):
        if len(steps) != len(values):
            raise ValueError(f"series {name!r}: {len(steps)} steps but {len(values)} values")
        axes.plot(
            np.asarray(steps, dtype=float),
            np.asarray(values, dtype=float),
            color=LINE_COLOURS[index % len(LINE_COLOURS)],
            linestyle=LINE_STYLES[index % len(LINE_STYLES)],
            marker="o" if len(steps) <= _MARKER_LIMIT else None,
            markersize=3.5,
            linewidth=1.8,
            label=name,
        )
    axes.set_xlabel(xlabel, fontsize=TEXT_POINTS)
    axes.set_ylabel(ylabel, fontsize=TEXT_POINTS)
    axes.legend(frameon=False, fontsize=TEXT_POINTS)
    return save(figure, path)


def intervals(
    series: Mapping[str, Mapping[str, tuple[float, float | None, float | None] | None]],
    path: str | Path,
    *,
    ylabel: str,
    title: str,
    phantom: bool = False,
) -> Path:
    """Draws values with their intervals, the series side by side in each group.

    Args:
      series: `{name: {group: (value, low, high)}}`, each with the groups of the first; no low and
        high is a value without an interval, None a gap.
      path: the PNG to write; its folder must exist.
      ylabel: what the values are, with the unit.
      title: the figure's title.
      phantom: marks the figure as made from phantoms.

    Returns:
      The path written.

    Raises:
      ValueError: no series, or series with different groups.
    """
    groups = list(next(iter(series.values()), {}))
    if not groups or any(list(values) != groups for values in series.values()):
        raise ValueError(f"every series needs the same groups, got {dict(series)}")
    figure, axes = new_figure(title, height_inches=3.6, phantom=phantom)
    _plain_axes(axes)
    for index, (name, values) in enumerate(series.items()):
        offset = (index - (len(series) - 1) / 2) * 0.3
        points = [values[group] or (np.nan, None, None) for group in groups]
        value = np.array([point[0] for point in points])
        low, high = (
            np.array([point[0] if point[end] is None else point[end] for point in points], float)
            for end in (1, 2)
        )
        axes.errorbar(
            np.arange(len(groups)) + offset,
            value,
            yerr=np.abs([value - low, high - value]),
            fmt="osD^"[index % 4],
            color=LINE_COLOURS[index % len(LINE_COLOURS)],
            markersize=6,
            capsize=4,
            label=name,
        )
    axes.set_xticks(range(len(groups)), [_words(name).replace(" ", "\n") for name in groups])
    axes.set_ylabel(ylabel, fontsize=TEXT_POINTS)
    axes.legend(frameon=False, fontsize=TEXT_POINTS)
    return save(figure, path)


def reliability(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: str | Path,
    *,
    title: str,
    phantom: bool = False,
) -> Path:
    """Draws accuracy by confidence, with the diagonal on which probabilities keep their word.

    Args:
      series: `{name: (confidence, accuracy)}`, both [n] in [0, 1].
      path: the PNG to write; its folder must exist.
      title: the figure's title.
      phantom: marks the figure as made from phantoms.

    Returns:
      The path written.

    Raises:
      ValueError: no series.

    Source:
      Guo et al., "On calibration of modern neural networks", 2017, figure 1.
    """
    if not series:
        raise ValueError("reliability needs at least one series")
    figure, axes = new_figure(title, height_inches=4.2, phantom=phantom)
    _plain_axes(axes)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, label="as sure as right")
    for index, (name, (confidence, accuracy)) in enumerate(series.items()):
        axes.plot(
            confidence,
            accuracy,
            color=LINE_COLOURS[index % len(LINE_COLOURS)],
            linestyle=LINE_STYLES[index % len(LINE_STYLES)],
            marker="osD^"[index % 4],
            markersize=5,
            linewidth=1.8,
            label=name,
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence", fontsize=TEXT_POINTS)
    axes.set_ylabel("accuracy", fontsize=TEXT_POINTS)
    axes.legend(frameon=False, fontsize=TEXT_POINTS, loc="upper left")
    return save(figure, path)


def new_figure(title: str, *, height_inches: float, phantom: bool) -> tuple[Figure, Axes]:
    """Returns a figure with one empty axes, its title, and the phantom note where asked."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(_WIDTH_INCHES, height_inches), dpi=_DPI, layout=layout)
    axes = figure.add_subplot()
    heading = f"{title} (phantom)" if phantom else title
    heading = textwrap.fill(heading, _TITLE_CHARACTERS)
    figure.suptitle(heading, fontsize=_TITLE_POINTS, fontweight="bold", color=INK)
    if phantom:
        figure.supxlabel(images.PHANTOM_NOTE, fontsize=NOTE_POINTS, color=MUTED)
    return figure, axes


def _plain_axes(axes: Axes) -> None:
    """Leaves two spines and a light horizontal grid behind the marks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=TEXT_POINTS)


def _legend_above(axes: Axes, *, with_generated: bool) -> None:
    """Names the classes above the bars, where it covers none, and what the hatching means."""
    handles, _ = axes.get_legend_handles_labels()
    if with_generated:
        handles.append(Patch(facecolor="white", edgecolor=INK, hatch=_HATCH, label="generated"))
    axes.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.02),
        ncols=3,
        frameon=False,
        fontsize=NOTE_POINTS,
    )


def _class_colours(classes: Sequence[str]) -> list[str]:
    """Gives each lesion class its own colour in every figure; other names count from the first."""
    known = dict(zip(lesions.CLASSES, CLASS_COLOURS, strict=True))
    return [
        known.get(name, LINE_COLOURS[index % len(LINE_COLOURS)])
        for index, name in enumerate(classes)
    ]


def _words(class_name: str) -> str:
    return class_name.replace("_", " ")


def save(figure: Figure, path: str | Path) -> Path:
    """Draws the figure and writes its pixels: no version or date gets into the file."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    images.write_png(path, np.asarray(canvas.buffer_rgba())[..., :3])
    return Path(path)
