"""A whole study: from a configuration to results.json, results.csv, a report and two cards."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from dermagan_jax import classifier_config, files, gan_config, training_set
from dermagan_jax.data import prepared
from dermagan_jax.errors import DermaganError
from dermagan_jax.study import arms, cards, paper, pictures, probes, results, study_report
from dermagan_jax.study.runner import Runner

RESULTS, TABLE = "results.json", "results.csv"
_COLUMNS = ("arm", "family", "gan_seed", "classifier_seed", *results.SCORES)
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
    _check(config)
    others = paper.read_others(config.beside, RESULTS)
    _claim(out)
    runner = Runner(config, out)
    found = _probe(Path(config.data_dir))
    all_arms, chosen = runner.run()
    document = results.summarise(runner, all_arms, chosen)
    document |= {"shortcuts": found, "others": others}
    files.write_json(out / RESULTS, document)
    _write_table(out / TABLE, document)
    cards.write(out, document, runner.opened.report)
    folder = out / study_report.FIGURES
    folder.mkdir(exist_ok=True)
    shown = [arm for arm in all_arms if results.is_shown(arm, chosen)]
    drawn = pictures.sections(runner, shown, folder)
    study_report.write(out, document, pictures=drawn, commands=commands)
    return document


def _check(config: ml_collections.ConfigDict) -> None:
    arms.check(config)
    classifier_config.check(config.classifier)
    training_set.check(config.classifier)
    gan_config.check(config.gan)
    for name in ("gan_seeds", "classifier_seeds"):
        seeds = config[name]
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise DermaganError(f"config.{name} is {seeds}; give numbers from 0, none twice")
    if config.seeds_per_gan < 1:
        raise DermaganError(f"config.seeds_per_gan is {config.seeds_per_gan}; give 1 or more")
    if not 0 < config.margin < 1:
        raise DermaganError(f"config.margin is {config.margin}; give a share such as 0.02")


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
    others = sorted(names - _OURS)
    if others:
        raise DermaganError(f"{out}: holds {others[0]}, which is no study's; name another --out")


def _write_table(path: Path, document: Mapping[str, Any]) -> None:
    with files.replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(_rows(document))


def _rows(document: Mapping[str, Any]) -> Iterator[list[Any]]:
    for arm in document["arms"]:
        for seed in arm["seeds"]:
            yield [arm["name"], arm["family"], *(seed[name] for name in _COLUMNS[2:])]
