"""Writes the figures of `results.json` into docs/performance.md, between its markers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import growth, precision
from benchmarks.turns import ROOT

DOCUMENT = ROOT / "docs" / "performance.md"
_BEGIN, _END = "<!-- figures: made by `make bench` -->", "<!-- end of figures -->"


def write(results: Mapping[str, Any]) -> None:
    """Replaces what stands between the document's markers."""
    put(DOCUMENT, _BEGIN, f"\n{_render(results)}", _END)


def put(document: Path, begin: str, content: str, end: str) -> None:
    """Writes what a document shows between two of its lines.

    Args:
      document: the file.
      begin: the line before.
      content: what is to stand there.
      end: the line after.

    Raises:
      ValueError: the document lacks one of the lines.
    """
    before, _, after = _parts(document, begin, end)
    document.write_text(f"{before}{begin}\n{content}\n{end}{after}", encoding="utf-8")


def shown(document: Path, begin: str, end: str) -> str:
    """Reads what a document shows between two of its lines.

    Raises:
      ValueError: the document lacks one of the lines.
    """
    return _parts(document, begin, end)[1].strip("\n")


def _parts(document: Path, begin: str, end: str) -> tuple[str, str, str]:
    before, found, rest = document.read_text(encoding="utf-8").partition(begin)
    content, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{document} has no lines {begin!r} and {end!r}")
    return before, content, after


def _render(results: Mapping[str, Any]) -> str:
    machine = results["machine"]
    compared = {name: found for name, found in results.items() if "ratio" in found}
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, "
        f"{_versions(compared)}. Medians; in brackets the lowest and the highest turn.",
        "",
        "| unit of work | ours, ms | fastest peer, ms | ratio | target |",
        "|---|---|---|---|---|",
        *(_row(found) for found in compared.values()),
        "",
        "| every side, ms | images a second | peak memory, MiB |",
        "|---|---|---|",
        *(line for found in compared.values() for line in _sides(found)),
        "",
        "| from nothing to the first step, s | import | cold | warm cache |",
        "|---|---|---|---|",
        *(
            f"| {name.removeprefix('startup_').replace('_', ' ')} | {_pair(found['import_s'])} | "
            f"{_pair(found['cold_first_step_s'])} | {_pair(found['warm_first_step_s'])} |"
            for name, found in results.items()
            if name.startswith("startup_")
        ),
    ]
    if "roofline" in results:
        lines += ["", *_roofline(results)]
    for sweep in growth.SWEEPS:
        name = f"growth_{sweep.name}"
        if name in results:
            lines += ["", f"### Growth: {sweep.label}", "", *growth.table(sweep, results[name])]
    if "precision" in results:
        lines += ["", "### Loss by precision", "", *precision.table(results["precision"])]
    return "\n".join(lines) + "\n"


def _roofline(results: Mapping[str, Any]) -> list[str]:
    rates, steps = results["roofline"]["rates"], results["roofline"]["steps"]
    lines = [
        f"At full rate this machine multiplies {rates['gflops']:,.0f} GFLOP a second and copies "
        f"{rates['gbytes_per_s']:.1f} GB a second (read and written).",
        "",
        "| step | GFLOP | GB moved | products alone, ms | copies alone, ms | measured, ms |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in steps.items():
        measured = results[name]["sides"]["dermagan_jax"]["median_ms"] if name in results else 0.0
        lines.append(
            f"| {name.replace('_', ' ')} | {found['gflop']} | {found['gbytes']} | "
            f"{found['product_floor_ms']:,} | {found['copy_floor_ms']:,} | {measured:,.1f} |"
        )
    return lines


def _versions(compared: Mapping[str, Any]) -> str:
    found: dict[str, str] = {}
    for case in compared.values():
        for side in case["sides"].values():
            found |= side["versions"]
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def _row(found: Mapping[str, Any]) -> str:
    ours, peer = found["sides"]["dermagan_jax"], found["sides"][found["fastest_peer"]]
    low, high = found["ratio_range"]
    target = "" if found["target"] is None else f"≤ {found['target']}"
    return (
        f"| {found['unit']} | {_timing(ours)} | {_timing(peer)}, {found['fastest_peer']} | "
        f"{found['ratio']:.2f} ({low:.2f} to {high:.2f}) | {target} |"
    )


def _sides(found: Mapping[str, Any]) -> list[str]:
    return [
        f"| {found['unit']}: {name} {_timing(side)} | {side['images_per_s']:,.1f} | {_peak(side)} |"
        for name, side in found["sides"].items()
    ]


def _peak(side: Mapping[str, Any]) -> str:
    helper = side.get("helper_peak_mib")
    return f"{side['peak_mib']:,}" + (f", and {helper:,} each helper" if helper else "")


def _timing(side: Mapping[str, Any]) -> str:
    low, high = side["range_ms"]
    return f"{side['median_ms']:,.1f} ({low:,.1f} to {high:,.1f})"


def _pair(figure: Mapping[str, Any]) -> str:
    low, high = figure["range"]
    return f"{figure['median']:.1f} ({low:.1f} to {high:.1f})"
