"""What a study refuses, and says how to mend, before anything is trained."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from dermagan_jax import classifier_config, gan_config, pretraining, ranges, training_set
from dermagan_jax.data.training import TrainingData
from dermagan_jax.errors import DermaganError
from dermagan_jax.nets.backbones import BACKBONES
from dermagan_jax.study import filters
from dermagan_jax.study.arms import (
    DROPOUT,
    EVENED,
    FAMILIES,
    FEWER,
    FILLED,
    FILTERED,
    FIRST,
    GENERATED,
    MORE_REAL,
    NETWORKS,
    PAPERS,
    PAPERS_NETWORKS,
    REFERENCE,
    Arm,
    Chosen,
    fitting,
    judge,
    known_arms,
)

# The family without which another has no size, or nothing to be compared with.
_NEEDS = {
    **dict.fromkeys(("A2", FILTERED, "A7", "A8", FIRST), GENERATED),
    "A6": FILTERED,
    FILLED: EVENED,
    DROPOUT: PAPERS,
}
# What a classifier's configuration says of generated images where there are none.
_WITHOUT_GENERATED = {
    **dict.fromkeys(("gan_workdir", "dir"), ""),
    **dict.fromkeys(("per_class", "ratio"), 0),
    **dict.fromkeys(("only", "shuffle_labels"), False),
    "until": 1,
}
# How the name of an arm shows what it has from a field.
_SHOWN = {"ratios": "{:g}", "real_shares": "{:.0%}", "dropout_rates": "{:g}"}
# A study's fields, by the name that an arm's own change has; other fields are `classifier`'s.
_STUDYS_NAMES = {
    "model.weights": "network_weights",
    "model.side": "network_side",
    "num_steps": "network_steps",
}
_FIELDS_OF_A_STUDY = ("arms", "gan_seeds", "classifier_seeds", "margin", "gan", "classifier")


def require_study(config: ml_collections.ConfigDict) -> None:
    """Refuses the recipe of something else.

    Raises:
      DermaganError: naming a field that it lacks.
    """
    ranges.require_fields(config, _FIELDS_OF_A_STUDY, whose="study's", example="configs/study.py")


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses a study that cannot be run, by its configuration alone.

    Raises:
      DermaganError: naming the field and the remedy.
    """
    require_study(config)
    _check_families(config)
    _check_numbers(config)
    _check_seeds(config)
    _check_synthetic(config.classifier)
    training_set.check(config.classifier)
    try:
        gan_config.check(config.gan)
    except DermaganError as error:
        said = re.sub(r"\bconfig\.", "config.gan.", str(error))
        raise DermaganError(f"the GANs: {said}") from error
    for arm in _all_arms(config):
        try:
            own = arm.configure(config.classifier)
            classifier_config.check(own)
            classifier_config.weights_file(own)
        except DermaganError as error:
            raise DermaganError(f"arm {arm.name}: {_in_a_study(str(error), arm)}") from error
    for name in config.filters:
        judge(filters.read(name).network, config)


def _in_a_study(message: str, arm: Arm) -> str:
    """Calls the fields of a classifier's configuration as a study's recipe does."""

    def name(field: re.Match[str]) -> str:
        own = _STUDYS_NAMES.get(field[1]) if field[1] in arm.changes else None
        return f"config.{own or f'classifier.{field[1]}'}"

    return re.sub(r"\bconfig\.(\w+(?:\.\w+)*)", name, message)


def check_data(config: ml_collections.ConfigDict, opened: TrainingData) -> None:
    """Refuses a study that cannot be run on a prepared set.

    Args:
      config: the study's.
      opened: the set.

    Raises:
      DermaganError: naming the field and the remedy.
      LeakError: the GAN is to start from one that saw held-out lesions.
    """
    size = opened.report["image_size"]
    if config.gan.model.image_size != size:
        raise DermaganError(
            f"config.gan.model.image_size is {config.gan.model.image_size}, and the images of "
            f"{opened.folder} have {size} pixels; give {size}"
        )
    if gan_config.others_steps(config.gan):
        opened.others()
    if config.gan.init_from:
        pretraining.ancestors(Path(config.gan.init_from), opened)
    real = opened.train.counts()
    for arm in fitting(_all_arms(config), real):
        if arm.needs_gan and not any(arm.num_images(real).values()):
            raise DermaganError(
                f"config.ratios: {arm.ratio:g} of {max(real.values())} images gives none of any "
                "class; give a larger ratio"
            )
    for share in config.real_shares if FEWER in config.arms else ():
        if not all(round(share * count) for count in real.values() if count):
            raise DermaganError(
                f"config.real_shares: {share:g} of {min(real.values())} images leaves a class "
                "without any; give a larger share"
            )
    if MORE_REAL in config.arms:
        training_set.extra_images(Path(config.more_real_dir), opened)


def _all_arms(config: ml_collections.ConfigDict) -> list[Arm]:
    """Lists the arms as if validation had chosen, each ratio of A4 once."""
    ratio = min(config.ratios) if GENERATED in config.arms else None
    filter_name = config.filters[0] if FILTERED in config.arms else None
    return known_arms(config, Chosen(ratio, filter_name))


def _check_families(config: ml_collections.ConfigDict) -> None:
    for field in ("arms", "filters", "networks", "beside"):
        if not all(isinstance(each, str) for each in config[field]):
            raise DermaganError(
                f"config.{field} is {config[field]}; give names, such as \"('A', 'B')\""
            )
    for name in config.arms:
        if name not in FAMILIES:
            raise DermaganError(
                f"config.arms names {name!r}; known: {', '.join(map(repr, FAMILIES))}"
            )
    wanted = set(config.arms)
    if REFERENCE not in wanted:
        raise DermaganError(f"config.arms lacks {REFERENCE!r}, with which all are compared")
    for name, other in _NEEDS.items():
        if name in wanted and other not in wanted:
            raise DermaganError(
                f"config.arms has {name!r} and lacks {other!r}, whose size it has or with which "
                f"it is compared; add {other!r}"
            )
    if FILTERED in wanted and not config.filters:
        raise DermaganError(f"config.filters is empty, and config.arms has {FILTERED!r}")
    if MORE_REAL in wanted and not config.more_real_dir:
        raise DermaganError(f"config.more_real_dir is empty, and config.arms has {MORE_REAL!r}")
    for name in (PAPERS_NETWORKS, NETWORKS):
        if name in wanted and not config.networks:
            raise DermaganError(f"config.networks is empty, and config.arms has {name!r}")
    unknown = sorted(set(config.networks) - set(BACKBONES))
    if unknown:
        known = ", ".join(map(repr, BACKBONES))
        raise DermaganError(f"config.networks names {unknown[0]!r}; known: {known}")


def _check_numbers(config: ml_collections.ConfigDict) -> None:
    for name in _SHOWN:
        if not all(_is_number(value) for value in config[name]):
            raise DermaganError(f"config.{name} is {config[name]}; give numbers")
    if GENERATED in config.arms and not (config.ratios and min(config.ratios) > 0):
        raise DermaganError("config.ratios: give numbers above 0")
    if not all(0 <= rate < 1 for rate in config.dropout_rates):
        raise DermaganError("config.dropout_rates: give rates from 0, below 1")
    if not all(0 < share < 1 for share in config.real_shares):
        raise DermaganError("config.real_shares: give shares between 0 and 1")
    for name in (*_SHOWN, "networks", "filters"):
        shown = [_SHOWN.get(name, "{}").format(value) for value in config[name]]
        twice = [text for text in shown if shown.count(text) > 1]
        if twice:
            raise DermaganError(
                f"config.{name} is {config[name]}, of which two are {twice[0]} where an arm names "
                "them; leave one out"
            )
    if not 0 < config.margin < 1:
        raise DermaganError(f"config.margin is {config.margin}; give a share such as 0.02")


def _check_seeds(config: ml_collections.ConfigDict) -> None:
    for name in ("gan_seeds", "classifier_seeds"):
        seeds: Sequence[object] = config[name]
        numbers = [each for each in seeds if isinstance(each, int) and _is_number(each)]
        in_range = [each for each in numbers if each in ranges.SEED]
        if not seeds or len(in_range) < len(seeds) or len(set(seeds)) < len(seeds):
            raise DermaganError(f"config.{name} is {seeds}; give numbers from 0, none twice")
    if config.seeds_per_gan < 1:
        raise DermaganError(f"config.seeds_per_gan is {config.seeds_per_gan}; give 1 or more")


def _check_synthetic(classifier: ml_collections.ConfigDict) -> None:
    """Refuses generated images in every arm, the reference among them."""
    for name, unset in _WITHOUT_GENERATED.items():
        if classifier.synthetic[name] != unset:
            raise DermaganError(
                f"config.classifier.synthetic.{name} is {classifier.synthetic[name]!r}, which "
                f"would reach {REFERENCE} too; leave it, the arms of a study say what is added"
            )


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)
