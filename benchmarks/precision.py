"""Loss curves by precision: a run in float32, the same in bfloat16, and for scale another seed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data, turns
from benchmarks.growth import FIGURES
from dermagan_jax import figures, writers

# By network: script, configuration, steps, and the metric to compare.
NETWORKS = {
    "GAN": ("train_gan.py", "configs/dcgan.py:smoke", 200, "train/d_loss"),
    "CNN": ("train_classifier.py", "configs/lesion_cnn.py:smoke", 300, "train/loss"),
}
RUNS = {
    "float32": {"precision": "float32", "seed": 0},
    "bfloat16": {"precision": "bfloat16", "seed": 0},
    "float32, another seed": {"precision": "float32", "seed": 1},
}


def measure() -> dict[str, Any]:
    """Trains every run of every network.

    Returns:
      By network: `config`, `metric`, `steps` of the curves' points, `curves` by run, and `gap`: the
      mean distance of each other run's curve from the first's.
    """
    return {name: _compare(*network) for name, network in NETWORKS.items()}


def _compare(script: str, config: str, num_steps: int, metric: str) -> dict[str, Any]:
    rows = {name: _train(script, config, num_steps, fields) for name, fields in RUNS.items()}
    curves = {name: [row[metric] for row in run if metric in row] for name, run in rows.items()}
    first, *others = curves
    return {
        "config": config,
        "metric": metric,
        "steps": [row["step"] for row in rows[first] if metric in row],
        "curves": curves,
        "gap": {
            name: round(float(np.abs(np.subtract(curves[name], curves[first])).mean()), 4)
            for name in others
        },
    }


def _train(script: str, config: str, num_steps: int, fields: Mapping[str, Any]) -> list[dict]:
    """Trains a run and returns the rows of its metrics."""
    choices = {
        "data_dir": data.phantom_set(),
        "num_steps": num_steps,
        "log_every_steps": 5,
        **fields,
    }
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, script, f"--config={config}", f"--workdir={workdir}"]
        command += [f"--config.{name}={value}" for name, value in choices.items()]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(turns.ROOT)}
        subprocess.run(
            command, cwd=turns.ROOT, env=environment, stdout=subprocess.DEVNULL, check=True
        )
        return writers.read_metrics(Path(workdir) / writers.METRICS_FILE)


def draw(found: Mapping[str, Any]) -> None:
    """Draws each network's curves into `docs/figures`."""
    FIGURES.mkdir(exist_ok=True)
    for name, network in found.items():
        figures.curves(
            {run: (network["steps"], curve) for run, curve in network["curves"].items()},
            FIGURES / f"precision_{name.lower()}.png",
            ylabel=network["metric"],
            title=f"{name}: {network['config']}",
            phantom=True,
        )


def table(found: Mapping[str, Any]) -> list[str]:
    """Returns the lines of the comparison in the document."""
    lines = [
        *(
            f"![Loss of the {name} by precision](figures/precision_{name.lower()}.png)"
            for name in found
        ),
        "",
        "| run | loss | steps | mean distance from the float32 curve |",
        "|---|---|---|---|",
    ]
    for network in found.values():
        for run, gap in network["gap"].items():
            lines.append(
                f"| `{network['config']}`, {run} | {network['metric']} | {network['steps'][-1]} | "
                f"{gap:.4f} |"
            )
    return [
        *lines,
        "",
        "tf32 is not compared: it needs an accelerator that has it, and is float32 on a CPU.",
    ]
