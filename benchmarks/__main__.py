r"""Compares this project's speed with its peers' on this machine: `make bench`.

    python -m benchmarks --peers-python=.venv/peers/bin/python [--only=gan_step] [--turns=5]

Writes benchmarks/results.json after each case and the tables of docs/performance.md at the end.
The figures of cases that are not run stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import cases, growth, precision, roofline, startup, tables, turns

RESULTS = turns.ROOT / "benchmarks" / "results.json"


def _parser() -> argparse.ArgumentParser:
    summary, _, _ = __doc__.partition("\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=summary)
    parser.add_argument(
        "--peers-python", required=True, help="interpreter of the peers' environment"
    )
    parser.add_argument("--only", default="", help="run only cases whose name holds this")
    parser.add_argument("--turns", type=int, default=5, help="counted turns a side (5)")
    parser.add_argument(
        "--long", action="store_true", help="also the cases that take an hour and 10 GB of disk"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file to add to")
    return parser


def _machine() -> dict[str, Any]:
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version()}


def _cases(only: str, with_long: bool) -> Iterator[turns.Case]:
    """Yields the cases asked for, each made, with its data, when its turn comes."""
    yield from (case for case in cases.STEPS if only in case.name)
    for name, make in (*cases.FROM_DISK.items(), *(cases.LONG.items() if with_long else ())):
        if only in name:
            yield make()


def _show(found: dict[str, Any]) -> None:
    for name, side in found["sides"].items():
        low, high = side["range_ms"]
        print(f"  {name:28} {side['median_ms']:10.1f} ms ({low:.1f} to {high:.1f})")
    low, high = found["ratio_range"]
    print(f"  ratio to {found['fastest_peer']}: {found['ratio']} ({low} to {high})")


def main() -> None:
    """Runs the cases that were asked for; the file is written after each."""
    flags = _parser().parse_args()
    results = json.loads(flags.out.read_text()) if flags.out.is_file() else {}
    results["machine"] = _machine()

    def record(name: str, found: dict[str, Any]) -> None:
        results[name] = found
        flags.out.write_text(json.dumps(results, indent=2) + "\n")

    for case in _cases(flags.only, flags.long):
        print(f"{case.name}: {case.unit}", flush=True)
        found = turns.compare(case, turns=flags.turns, peers_python=flags.peers_python)
        record(case.name, found)
        _show(found)
    for job in startup.JOBS:
        if flags.only in f"startup_{job}":
            print(f"startup_{job}: from nothing to the first step", flush=True)
            found = startup.measure(job, turns=flags.turns)
            record(f"startup_{job}", found)
            print(f"  {found}")
    if flags.only in "roofline":
        print("roofline: the machine's rates, and what the steps would take at them")
        rates = roofline.machine_rates()
        steps = {name: roofline.floors(*step, rates) for name, step in roofline.STEPS.items()}
        record("roofline", {"rates": rates, "steps": steps})
        print(f"  {rates}\n  {steps}")
    for sweep in growth.SWEEPS:
        name = f"growth_{sweep.name}"
        if flags.only in name:
            print(f"{name}: time and memory by {sweep.label}", flush=True)
            record(name, growth.measure(sweep, num_turns=flags.turns))
            growth.draw(sweep, results[name])
            print(f"  {results[name]}")
    if flags.only in "precision":
        print("precision: the same runs in float32 and in bfloat16", flush=True)
        record("precision", precision.measure())
        precision.draw(results["precision"])
    tables.write(results)


if __name__ == "__main__":
    main()
