"""The part of a study's report that says how it was done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dermagan_jax.study.report import Section, Table


def section(document: Mapping[str, Any]) -> Section:
    """Lays out how the study was done, down to every field of its recipe.

    Args:
      document: what results.json holds.
    """
    data = document["data"]
    counts = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in data["counts"].items())
    leaks = " Its splits share lesions on purpose, so all scores are too high." * data["leaky"]
    gans = ", ".join(map(str, document["gan_seeds"]))
    classifiers = ", ".join(map(str, document["classifier_seeds"]))
    of_gan = ", ".join(map(str, document["classifier_seeds"][: document["seeds_per_gan"]]))
    return Section(
        "Protocol",
        f"Real training images: {counts}. GAN, filters and classifiers see the training split "
        f"alone; checkpoints, ratio and filter are chosen on the validation split; the test split "
        f"of {document['num_test']['images']:,} images is read for the scores.{leaks}\n\n"
        f"GAN seeds: {gans}. Classifier seeds: {classifiers}; of each GAN: {of_gan}. Each "
        f"classifier is taken at its lowest validation loss.\n\n{_training(document['config'])}",
        tables=[
            _fields_table(document["config"]),
            Table(
                "Seeds, on the test split",
                ["arm", "GAN seed", "classifier seed", "balanced accuracy", "accuracy", "loss"],
                [
                    [
                        arm["name"],
                        seed["gan_seed"],
                        seed["classifier_seed"],
                        *(seed[name] for name in ("balanced_accuracy", "accuracy", "loss")),
                    ]
                    for arm in document["arms"]
                    for seed in arm["seeds"]
                ],
            ),
        ],
    )


def _training(config: Mapping[str, Any]) -> str:
    """Says what classifiers and GANs were trained with."""
    classifier, gan = config["classifier"], config["gan"]
    networks = ", ".join([classifier["model"].get("network", ""), *config["networks"]])
    filters = ", ".join(config["filters"]) or "none"
    budget = f"{gan['total_kimg']:g} thousand real images" if gan["total_kimg"] else ""
    return (
        f"Classifiers: {classifier['num_steps']:,} steps of {classifier['batch_size']} images, "
        f"Adam at {classifier['optimizer']['learning_rate']:g}, augmentation "
        f"{classifier['augmentation']}; networks: {networks}. GANs: "
        f"{gan['model']['architecture']}, {gan['conditioning']}, "
        f"{budget or format(gan['num_steps'], ',') + ' steps'} in batches of {gan['batch_size']}, "
        f"Adam at {gan['optimizer']['learning_rate']:g}, loss {gan['loss']}, augmentation "
        f"{gan['augment']}. Filters: {filters}. An arm's own changes are in results.json."
    )


def _fields_table(config: Mapping[str, Any]) -> Table:
    rows = [[name, _printed(value)] for name, value in _flat(config)]
    return Table("All fields of the recipe", ["field", "value"], rows)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in sorted(tree.items()):
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _printed(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_printed, value)) or "none"
    return "not set" if value in (None, "") else str(value)
