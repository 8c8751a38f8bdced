"""What growth costs: time and memory of a unit of work as one number grows, all else as it is."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data, roofline, turns
from dermagan_jax import figures, images

FIGURES = turns.ROOT / "docs" / "figures"
MOST_TURNS = 3
BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Sweep:
    """One number that grows.

    Attributes:
      name: what `--only` names, after `growth_`.
      label: what grows, in words.
      values: what it is set to.
      series: by name, a job of `ours` and its parameters at a value.
      why: why the curves look as they do, for the document; "" until they are measured.
    """

    name: str
    label: str
    values: tuple[int, ...]
    series: Mapping[str, tuple[str, Callable[[int], dict[str, Any]]]]
    why: str


SWEEPS = (
    Sweep(
        "batch",
        "images in a batch",
        (16, 32, 64, 128, 256, 512),
        {
            "GAN": ("gan_step", lambda batch_size: {"batch_size": batch_size}),
            "CNN": ("cnn_step", lambda batch_size: {"batch_size": batch_size, "policy": "none"}),
        },
        "Time is in proportion to the batch. The GAN takes 25 ms an image at 16 and 19 to 21 "
        "from 64 on, since larger matrices are multiplied at a higher rate; the CNN takes 3.1 "
        "to 4.2 throughout. Memory has a floor of about 1.7 and 1.1 GiB, 0.7 of it the imported "
        "libraries; an image adds 5.8 MiB to the GAN, whose maps are kept for the way back, and "
        "1.3 to the CNN.",
    ),
    Sweep(
        "width",
        "width of the networks",
        (16, 32, 64, 128),
        {"GAN": ("gan_step", lambda width: {"batch_size": BATCH_SIZE, "width": width})},
        "Twice the width is four times the arithmetic and, in narrow networks, only a little "
        "over twice the time: there the traffic of the maps counts, which grows as the width "
        "does. From 64 to 128 it is three times, for 0.8 GiB more: the maps double, and the "
        "weights, their two moments and the average take 0.4 GiB more, as they grow with the "
        "square.",
    ),
    Sweep(
        "size",
        "side of the images in pixels",
        (32, 64, 128),
        {
            "GAN": ("gan_step", lambda side: {"batch_size": BATCH_SIZE, "image_size": side}),
            "CNN": (
                "cnn_step",
                lambda side: {"batch_size": BATCH_SIZE, "policy": "none", "image_size": side},
            ),
        },
        "Twice the side is four times the pixels and, in the GAN, one more layer: six and five "
        "times the arithmetic, five times the time. The CNN's first dense layer grows with the "
        "map, and at 128 pixels the maps of a batch no longer fit the cache, so that its rate "
        "falls from 52 to 42 GFLOP a second.",
    ),
    Sweep(
        "data",
        "images of each class in the set",
        (128, 512, 2048),
        {
            "CNN, an epoch": (
                "epoch",
                lambda count: {"batch_size": BATCH_SIZE, "data_dir": str(data.phantom_set(count))},
            )
        },
        "96, 1,400 and 6,624 of them are training images. An epoch takes half a second to open the "
        "set and 4 to 6 ms an image, most of it the steps. Images are held in memory, 12 KB "
        "each, and three times over while they are read. The rest of the growth is memory that was "
        "freed and not given back: here the set is read anew for each epoch, by a run only once.",
    ),
    Sweep(
        "seeds",
        "seeds that train side by side",
        (1, 2, 4, 8, 16),
        {
            "CNN, an update of each": (
                "cnn_seeds",
                lambda count: {"num_seeds": count, "batch_size": BATCH_SIZE, "policy": "none"},
            )
        },
        "One seed takes both cores. From two on each core trains runs of its own, without a "
        "word between them: two seeds take 1.6 times and four 2.5 times the time of one; then "
        "it is in proportion, 180 ms a seed. A seed adds 14 MiB: weights, moments and a batch.",
    ),
)


def measure(sweep: Sweep, *, num_turns: int) -> dict[str, list[dict[str, float]]]:
    """Measures a sweep's series at each of its values.

    Args:
      sweep: what grows.
      num_turns: counted turns, of which at most three are taken.

    Returns:
      By series, a point a value: `value`, `ms` a unit, its `range_ms`, `peak_mib`, and for steps
      `gflop` and `gbytes` of a unit, see `roofline.floors`.
    """
    return {
        name: [_point(job, parameters(value), value, num_turns) for value in sweep.values]
        for name, (job, parameters) in sweep.series.items()
    }


def _point(job: str, parameters: dict[str, Any], value: int, num_turns: int) -> dict[str, Any]:
    case = turns.Case(
        name=f"{job} {value}",
        job=job,
        parameters=parameters,
        peers=(),
        unit="",
        units=1 if job != "cnn_step" else max(1, 640 // parameters["batch_size"]),
        images=parameters["batch_size"],
        target=None,
    )
    found = turns.measure(case, turns=min(num_turns, MOST_TURNS))
    point = {
        "value": value,
        "ms": found["median_ms"],
        "range_ms": found["range_ms"],
        "peak_mib": found["peak_mib"],
    }
    return point | roofline.work_of(job, parameters) if job in roofline.COUNTED else point


def table(sweep: Sweep, found: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """Returns the lines of a sweep in the document: figure, table and explanation."""
    return [
        f"![Time and memory by {sweep.label}](figures/growth_{sweep.name}.png)",
        "",
        f"| unit | {sweep.label} | ms | GFLOP | GFLOP/s | GB moved | GB/s | peak memory, MiB |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(name, point) for name, points in found.items() for point in points),
        *(("", sweep.why) if sweep.why else ()),
    ]


def _row(name: str, point: Mapping[str, Any]) -> str:
    low, high = point["range_ms"]
    secs = point["ms"] / 1e3
    cells = [name, f"{point['value']:,}", f"{point['ms']:,.1f} ({low:,.1f} to {high:,.1f})"]
    for key in ("gflop", "gbytes"):
        work = point.get(key)
        cells += ["", ""] if work is None else [f"{work:,.1f}", f"{work / secs:,.1f}"]
    return f"| {' | '.join(cells)} | {point['peak_mib']:,} |"


def draw(sweep: Sweep, found: Mapping[str, list[dict[str, float]]]) -> Path:
    """Draws time and memory side by side into `docs/figures`."""
    path = FIGURES / f"growth_{sweep.name}.png"
    path.parent.mkdir(exist_ok=True)
    panels = (("ms", 1e3, "seconds"), ("peak_mib", 1024, "peak memory, GiB"))
    drawn = []
    with tempfile.TemporaryDirectory() as folder:
        for key, divisor, ylabel in panels:
            series = {
                name: ([p["value"] for p in points], [p[key] / divisor for p in points])
                for name, points in found.items()
            }
            panel = figures.curves(
                series,
                Path(folder) / f"{key}.png",
                ylabel=ylabel,
                xlabel=sweep.label,
                title=f"{ylabel.partition(',')[0].capitalize()} by {sweep.label}",
            )
            drawn.append(images.read(panel))
    images.write_png(path, np.concatenate(drawn, axis=1))
    return path
