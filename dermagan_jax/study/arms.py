"""The arms of a study: what each trains a classifier on. All have the same budget of steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import ml_collections

from dermagan_jax.classifier_config import NO_WEIGHTS
from dermagan_jax.errors import DermaganError

REFERENCE = "A1"
GENERATED, FILTERED, FEWER, NETWORKS, FIRST = "A4", "A5", "A10", "A11", "A12"
EVENED, FILLED = "A13", "A14"
MORE_REAL = "A9"
PAPERS, PAPERS_NETWORKS, DROPOUT = "P2", "P3", "PD"
NEGATIVE_CONTROL = "A8"

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "A0": "real images",
        "A1": "real images, classic augmentation",
        "A2": "as A1, real images repeated up to A4's number",
        "A3": "as A1, mixtures of two images",
        "A4": "as A1, and generated images",
        "A5": "as A4, those that pass a filter",
        "A6": "as A4, a random choice of A5's number",
        "A7": "generated images alone",
        "A8": "as A4, labels of the generated images shuffled",
        "A9": "as A1, and more real images",
        "A10": "fewer real images, with and without generated ones",
        "A11": "as A1 and A4, other networks",
        "A12": "as A4 for the first half of the steps, then as A1",
        "A13": "as A1, rarer classes repeated up to the commonest one's number",
        "A14": "as A1, rarer classes filled up to the commonest one's number by generated images",
        "P2": "the paper's table 2: 100 generated images a class",
        "P3": "the paper's table 3: other networks, without and with P2's images",
        "PD": "the paper's dropout analysis, with P2's images",
    }
)
"""What each family of arms is trained on, by its name in a configuration."""

PAPERS_PER_CLASS = 100
FIRST_SHARE = 0.5  # Of A12's steps.
# Of the last layer of a frozen network, and of all of one that is trained.
_FROZEN = {"model.frozen": True, "optimizer.learning_rate": 1e-3}
_WHOLE = {"model.frozen": False, "optimizer.learning_rate": 1e-4}

# Which images of a GAN an arm takes.
ALL, PASSED, DISCARDED = "all", "passed", "discarded"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train the classifier.

    Attributes:
      name: short and unique, such as `A4 x0.5`.
      family: its name in `FAMILIES`.
      title: one line for a reader.
      changes: fields of the classifier's configuration, by dotted name, that are this arm's own.
      ratio: generated images for each real one of the class; 0 for none.
      per_class: or generated images of each class; 0 for none.
      fill: or as many generated images as a class lacks to the commonest one.
      images: which of the GAN's images: `ALL`, `PASSED` by the filter, or a random choice of their
        number.
      filter: the filter of `PASSED` and `DISCARDED`.
      reference: the name of the arm with which it is compared.
    """

    name: str
    family: str
    title: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ratio: float = 0.0
    per_class: int = 0
    fill: bool = False
    images: str = ALL
    filter: str = ""
    reference: str = REFERENCE

    @property
    def needs_gan(self) -> bool:
        """Whether each GAN seed makes a cell of its own."""
        return bool(self.ratio or self.per_class or self.fill)

    def num_images(self, real: Mapping[str, int]) -> dict[str, int]:
        """Returns how many images it takes from a GAN, before any filter.

        Args:
          real: the real training images of each class.
        """
        if self.fill:
            # Of a class that is not there, no GAN has learnt.
            largest = max(real.values())
            return {name: largest - count if count else 0 for name, count in real.items()}
        return {name: self.per_class or round(self.ratio * count) for name, count in real.items()}

    def configure(self, classifier: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
        """Returns a study's configuration of the classifier with this arm's changes."""
        config = classifier.copy_and_resolve_references()
        with config.unlocked():  # Another network has fields that the paper's has not.
            config.update_from_flattened_dict(dict(self.changes))
        return config


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What validation has chosen so far; None where that is not known yet.

    Attributes:
      ratio: of A4, which the arms after it keep.
      filter: of A5, which A6 keeps.
    """

    ratio: float | None = None
    filter: str | None = None


def judge(network: str, config: ml_collections.ConfigDict) -> Arm:
    """Returns the arm whose classifier a filter `agreed=NETWORK` asks; A1's, for no network.

    Raises:
      DermaganError: the study has no such arm.
    """
    name = f"{NETWORKS} {network}" if network else REFERENCE
    found = {arm.name: arm for arm in known_arms(config, Chosen())}
    if name not in found:
        raise DermaganError(
            f"config.filters: agreed={network} needs {NETWORKS!r} in config.arms and {network!r} "
            "in config.networks"
        )
    return found[name]


def known_arms(config: ml_collections.ConfigDict, chosen: Chosen) -> list[Arm]:
    """Lists the arms that can be run by now, in the order of a report.

    Args:
      config: the study's.
      chosen: what validation has chosen so far.
    """
    wanted = [arm for arm in _arms(config, chosen) if arm.family in config.arms]
    return sorted(wanted, key=lambda arm: list(FAMILIES).index(arm.family))


def fitting(found: Sequence[Arm], real: Mapping[str, int]) -> list[Arm]:
    """Leaves out the arms that even out the classes, where all have as many images.

    What is compared with such an arm is compared with the reference then: they are the same.

    Args:
      found: arms of a study.
      real: the real training images of each class.
    """
    if len({count for count in real.values() if count}) > 1:
        return list(found)
    return [
        dataclasses.replace(arm, reference=REFERENCE) if arm.reference == EVENED else arm
        for arm in found
        if arm.family not in (EVENED, FILLED)
    ]


def _arms(config: ml_collections.ConfigDict, chosen: Chosen) -> Iterator[Arm]:
    yield Arm("A0", "A0", FAMILIES["A0"], {"augmentation": "none"})
    yield Arm("A1", "A1", FAMILIES["A1"])
    for mixing in ("mixup", "cutmix"):
        yield Arm(f"A3 {mixing}", "A3", f"as A1, {mixing}", {"mixing": mixing})
    for ratio in config.ratios:
        yield Arm(
            f"A4 x{ratio:g}",
            "A4",
            f"as A1, and generated images, {ratio:g} for each real one",
            ratio=ratio,
        )
    yield from _network_arms(config)
    if config.ratios:
        # What is shown at first cannot crowd out the real images, so there may be many.
        many = max(config.ratios)
        title = f"{FAMILIES[FIRST]}; of generated images {many:g} for each real one"
        yield Arm(FIRST, FIRST, title, {"synthetic.until": FIRST_SHARE}, ratio=many)
    yield Arm(EVENED, EVENED, FAMILIES[EVENED], {"class_balanced": True})
    yield Arm(FILLED, FILLED, FAMILIES[FILLED], fill=True, reference=EVENED)
    if chosen.ratio is not None:
        yield from _at_ratio(config, chosen, chosen.ratio)
    yield from _papers_arms(config)
    yield from _more_real_arms(config)
    for share in config.real_shares:
        name, changes = f"{FEWER} {share:.0%}", {"real.share": share}
        yield Arm(name, FEWER, f"{share:.0%} of the real images", changes)
        if chosen.ratio is not None and GENERATED in config.arms:
            title = f"{share:.0%} of the real, and A4's images of a GAN that saw all of them"
            yield Arm(
                f"{name} + generated", FEWER, title, changes, ratio=chosen.ratio, reference=name
            )


def _more_real_arms(config: ml_collections.ConfigDict) -> Iterator[Arm]:
    """Yields A9's arms: as the larger set has them, and with its rarer classes repeated."""
    title, more = FAMILIES[MORE_REAL], {"real.extra_dir": config.more_real_dir}
    yield Arm(MORE_REAL, MORE_REAL, title, more)
    reference = EVENED if EVENED in config.arms else REFERENCE
    evened = more | {"class_balanced": True}
    title = f"{title}, rarer classes repeated up to the commonest one's number"
    yield Arm(f"{MORE_REAL} evened", MORE_REAL, title, evened, reference=reference)


def _network_arms(config: ml_collections.ConfigDict) -> Iterator[Arm]:
    """Yields A11's arms on real images: each network frozen, if it has weights, and whole."""
    for network in config.networks:
        named = {
            "model.network": network,
            "model.side": config.network_side,
            "model.weights": config.network_weights,
            "num_steps": config.network_steps or config.classifier.num_steps,
            "optimizer.b1": 0.9,
        }
        name, title = f"{NETWORKS} {network}", f"as A1, {network}"
        if config.network_weights != NO_WEIGHTS:
            yield Arm(f"{name} frozen", NETWORKS, f"{title} frozen", named | _FROZEN)
        how = "from scratch" if config.network_weights == NO_WEIGHTS else "whole"
        yield Arm(name, NETWORKS, f"{title} trained {how}", named | _WHOLE)


def _papers_arms(config: ml_collections.ConfigDict) -> Iterator[Arm]:
    """Yields the arms of the paper's tables, all with its 100 images a class or without any."""
    added: dict[str, Any] = {"per_class": PAPERS_PER_CLASS}
    yield Arm("P2", "P2", FAMILIES["P2"], **added)
    scratch = config.network_weights == NO_WEIGHTS
    how = "from scratch" if scratch else "frozen"
    for name in config.networks:
        network = {
            "model.network": name,
            "model.side": config.classifier.model.image_size,
            "model.weights": config.network_weights,
            "num_steps": config.network_steps or config.classifier.num_steps,
            # The paper froze them, and trained the last layer at its CNN's rate.
            **(_WHOLE if scratch else {"model.frozen": True}),
        }
        arm, real = f"{PAPERS_NETWORKS} {name}", f"{PAPERS_NETWORKS} {name} real"
        yield Arm(real, PAPERS_NETWORKS, f"as A1, {name} {how}", network)
        title = f"as P2, {name} {how}"
        yield Arm(arm, PAPERS_NETWORKS, title, network, reference=real, **added)
    for rate in config.dropout_rates:
        title, changes = f"as P2, dropout {rate:g}", {"model.dropout_rate": rate}
        yield Arm(f"{DROPOUT} {rate:g}", DROPOUT, title, changes, reference=PAPERS, **added)


def _at_ratio(config: ml_collections.ConfigDict, chosen: Chosen, ratio: float) -> Iterator[Arm]:
    """Yields the arms that follow from A4's ratio."""
    yield Arm(
        "A2", "A2", f"as A1, {ratio:g} repeated for each real image", {"real.repeated": ratio}
    )
    for name in config.filters:
        title = f"as A4, those that pass {name}"
        yield Arm(f"A5 {name}", "A5", title, ratio=ratio, images=PASSED, filter=name)
    if chosen.filter is not None:
        title = f"as A4, as many as pass {chosen.filter}, at random"
        yield Arm("A6", "A6", title, ratio=ratio, images=DISCARDED, filter=chosen.filter)
    yield Arm("A7", "A7", FAMILIES["A7"], {"synthetic.only": True}, ratio=ratio)
    yield Arm("A8", "A8", FAMILIES["A8"], {"synthetic.shuffle_labels": True}, ratio=ratio)
    for real in _network_arms(config):
        yield Arm(
            f"{real.name} + generated",
            NETWORKS,
            f"{real.title}, and generated images",
            real.changes,
            ratio=ratio,
            reference=real.name,
        )
