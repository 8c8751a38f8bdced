"""From nothing to the first step: imports, then set-up, compiling and one step, cold and warm."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.turns import ROOT

JOBS = {
    "gan_step": {"batch_size": 64},
    "cnn_step": {"batch_size": 64, "policy": "paper"},
}


def measure(job: str, *, turns: int) -> dict[str, Any]:
    """Starts the job's worker with an empty cache of compiled programs, then with a full one.

    Args:
      job: a key of `JOBS`.
      turns: how often each is started.

    Returns:
      Medians and ranges in seconds: `import_s`, `cold_first_step_s`, `warm_first_step_s`.
    """
    names = ("import_s", "cold_first_step_s", "warm_first_step_s")
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(turns):
        with tempfile.TemporaryDirectory() as cache:
            for name in names[1:]:
                answer = _start(job, cache)
                found[name].append(answer["first_s"])
                found["import_s"].append(answer["import_s"])
    return {
        name: {"median": round(statistics.median(values), 2), "range": _range(values)}
        for name, values in found.items()
    }


def _range(values: list[float]) -> list[float]:
    return [round(min(values), 2), round(max(values), 2)]


def _start(job: str, cache: str) -> dict[str, Any]:
    worker = ["-m", "benchmarks.worker", "ours", job, json.dumps(JOBS[job]), "1"]
    command = [sys.executable, *worker]
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    done = subprocess.run(
        command, cwd=ROOT, env=environment, input="", capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[0])
