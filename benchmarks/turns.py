"""Two or more sides in turn, A B A B: medians, ranges and the ratio to the fastest peer."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Side:
    """One way of doing a case's work.

    Attributes:
      name: what the table calls it.
      module: the module of `benchmarks` that has the job.
      parameters: what the job is called with, besides the case's own.
    """

    name: str
    module: str
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)


OURS = Side("dermagan_jax", "ours")


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
      name: unique, and what `--only` names.
      job: the function that every side's module has.
      parameters: what every side's job is called with.
      peers: the sides to compare with.
      unit: what a unit of work is, in words.
      units: units in one turn: enough for about a second.
      images: images in one unit, for images a second.
      target: the ratio ours / fastest peer to stay at or below; None where there is none.
      ours: this project's side.
      warm: whether units are done before the counted turns; not where one takes minutes.
      most_turns: counted turns at most, however many are asked for.
    """

    name: str
    job: str
    parameters: Mapping[str, Any]
    peers: tuple[Side, ...]
    unit: str
    units: int
    images: int
    target: float | None
    ours: Side = OURS
    warm: bool = True
    most_turns: int | None = None


class _Worker:
    """A side's process; see `worker`."""

    def __init__(self, side: Side, case: Case, python: str) -> None:
        parameters = json.dumps({**case.parameters, **side.parameters})
        first_units = str(int(case.warm))
        job = [side.module, case.job, parameters, first_units]
        command = [python, "-m", "benchmarks.worker", *job]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.side = side
        self.turns: list[float] = []
        self.peak_mib = self.helper_peak_mib = 0.0
        self.start = self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.side.name} ended with exit code {self._process.wait()}")
        return json.loads(line)

    def work(self, units: int) -> float:
        """Does `units` units of work and returns the seconds that they took."""
        self._process.stdin.write(f"{units}\n")
        self._process.stdin.flush()
        answer = self._read()
        self.peak_mib = answer["peak_mib"]
        self.helper_peak_mib = answer["helper_peak_mib"]
        return answer["seconds"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def _workers(case: Case, peers_python: str) -> Iterator[list[_Worker]]:
    """Sets the sides up one after another, so that none is timed beside another's set-up."""
    with contextlib.ExitStack() as stack:
        workers = []
        for side in (case.ours, *case.peers):
            python = sys.executable if side.module == case.ours.module else peers_python
            worker = _Worker(side, case, python)
            stack.callback(worker.close)
            workers.append(worker)
        yield workers


def compare(case: Case, *, turns: int, peers_python: str) -> dict[str, Any]:
    """Runs a case.

    Args:
      case: what to compare.
      turns: how often each side takes its turn, after one that is not counted.
      peers_python: the interpreter of the peers' environment.

    Returns:
      `sides`, by name: median, lowest and highest milliseconds a unit, images a second, peak
      memory of the process and of its largest helper, and set-up; `fastest_peer`; `ratio` of the
      medians, and its range over the turns.
    """
    workers = _timed(case, turns, peers_python)
    sides = {worker.side.name: _figures(worker, case) for worker in workers}
    ours, *peers = workers
    best = min(peers, key=lambda peer: statistics.median(peer.turns))
    ratios = [mine / theirs for mine, theirs in zip(ours.turns, best.turns, strict=True)]
    return {
        "unit": case.unit,
        "sides": sides,
        "fastest_peer": best.side.name,
        "ratio": round(statistics.median(ours.turns) / statistics.median(best.turns), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "target": case.target,
    }


def measure(case: Case, *, turns: int) -> dict[str, Any]:
    """Runs a case that has no peers; returns what `compare` does of a side."""
    (worker,) = _timed(case, turns, sys.executable)
    return _figures(worker, case)


def _timed(case: Case, turns: int, peers_python: str) -> list[_Worker]:
    """Returns the workers, ended, with the seconds that a unit took in each turn."""
    with _workers(case, peers_python) as workers:
        for worker in workers if case.warm else ():
            worker.work(max(1, case.units // 4))
        for _ in range(min(turns, case.most_turns or turns)):
            for worker in workers:
                worker.turns.append(worker.work(case.units) / case.units)
    return workers


def _figures(worker: _Worker, case: Case) -> dict[str, Any]:
    median = statistics.median(worker.turns)
    return {
        "median_ms": round(1e3 * median, 3),
        "range_ms": [round(1e3 * min(worker.turns), 3), round(1e3 * max(worker.turns), 3)],
        "images_per_s": round(case.images / median, 1),
        "peak_mib": round(worker.peak_mib),
        "helper_peak_mib": round(worker.helper_peak_mib),
        "import_s": round(worker.start["import_s"], 2),
        "first_unit_s": round(worker.start["first_s"], 2),
        "versions": worker.start["versions"],
    }
