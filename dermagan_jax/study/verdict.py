"""A whole study: from a configuration to results.json, results.csv, a report and two cards."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from dermagan_jax import files
from dermagan_jax.data import prepared
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES
from dermagan_jax.study import (
    cards,
    cells,
    checks,
    paper,
    pictures,
    probes,
    results,
    study_report,
)
from dermagan_jax.study.runner import Runner

RESULTS, TABLE = "results.json", "results.csv"
_COLUMNS = ("arm", "family", "gan_seed", "classifier_seed", *results.SCORES)
_OF_CLASSES = [(name, measure) for name in CLASSES for measure in results.CLASS_SCORES]
# What a study's folder holds; anything else is not ours to write beside.
_OURS = frozenset(
    {
        *("claims", "gans", "images", "cells", study_report.FIGURES, study_report.REPORT),
        *(RESULTS, TABLE, cards.MODEL_CARD, cards.DATA_CARD),
    }
)

_logger = logging.getLogger("dermagan")


def run(
    config: ml_collections.ConfigDict, out: Path, *, commands: Sequence[str] = ()
) -> dict[str, Any]:
    """Runs what is missing of a study, then writes what all of it says.

    Args:
      config: see `configs/study.py`.
      out: the study's folder: new, or of an earlier call.
      commands: the command lines, for the report's footer.

    Returns:
      The document written to results.json.

    Raises:
      DermaganError: bad input, before anything is written.
      LeakError: splits share lesions that should not.
    """
    checks.check(config)
    runner = Runner(config, out)
    others = paper.read_others(
        config.beside, RESULTS, data=runner.opened.description(), classifier=config.classifier
    )
    _claim(out)
    _tell_of_others(out, config)
    found = _probe(Path(config.data_dir))
    all_arms, chosen = runner.run()
    document = results.summarise(runner, all_arms, chosen)
    document |= {"shortcuts": found, "others": others}
    # Processes that end together would write over each other's half-written files.
    with cells.awaited(out, "results"):
        files.write_json(out / RESULTS, document)
        _write_table(out / TABLE, document)
        cards.write(out, document, runner.opened.report)
        folder = out / study_report.FIGURES
        folder.mkdir(exist_ok=True)
        shown = [arm for arm in all_arms if results.is_shown(arm, chosen)]
        drawn = pictures.sections(runner, shown, folder)
        study_report.write(out, document, pictures=drawn, commands=commands)
    return document


def _probe(data_dir: Path) -> dict[str, Any]:
    """Asks, before any arm, what gives a class away that is no lesion."""
    training, validation = (prepared.load_split(data_dir, each) for each in ("train", "validation"))
    found = probes.describe(training, validation)
    for line in study_report.warnings(found):
        _logger.warning("warning: %s", line)
    return found


def _claim(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise DermaganError(f"{out}: is no folder; name another --out")
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    others = sorted(name for name in names - _OURS if not files.is_partial(name))
    if others:
        raise DermaganError(f"{out}: holds {others[0]}, which is no study's; name another --out")


def _tell_of_others(out: Path, config: ml_collections.ConfigDict) -> None:
    """Warns that the results in a folder are of another study, and will be replaced."""
    if not (out / RESULTS).is_file():
        return
    remedy = f"delete {out / RESULTS} and run the study again"
    before = files.read_json(out / RESULTS, {"config": dict}, remedy=remedy)["config"]
    ours = results.configuration(config)
    found = [f"config.{name}" for name in sorted(ours) if before.get(name) != ours[name]]
    if found:
        _logger.warning(
            "warning: %s: its results are of a study that differs in %s; they will be replaced, "
            "and what was trained for them is kept. Name another --out to keep both",
            *(out, ", ".join(found)),
        )


def _write_table(path: Path, document: Mapping[str, Any]) -> None:
    with files.replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_COLUMNS, *(f"{name}_{measure}" for name, measure in _OF_CLASSES)])
        writer.writerows(_rows(document))


def _rows(document: Mapping[str, Any]) -> Iterator[list[Any]]:
    for arm in document["arms"]:
        for seed in arm["seeds"]:
            of_classes = [seed["per_class"][name][measure] for name, measure in _OF_CLASSES]
            yield [arm["name"], arm["family"], *(seed[name] for name in _COLUMNS[2:]), *of_classes]
