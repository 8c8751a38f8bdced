"""Measures a GAN's checkpoints against held-out lesions: are they near, and do they copy?"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dermagan_jax import diffaugment, files, gan_config, synthesis
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.data import prepared
from dermagan_jax.errors import DermaganError, LeakError
from dermagan_jax.features import TAKES_PATH, Extractor, find_extractor
from dermagan_jax.lesions import CLASSES, NUM_CLASSES
from dermagan_jax.metrics import generative, intervals, memorization
from dermagan_jax.metrics.feature_set import FeatureSet
from dermagan_jax.study import evaluation_report

RESULT = "evaluation.json"
NUM_PAIRS = 8
# Of chance, over the four classes and all of them together.
_LOW_P_VALUE = 0.01
# The features of the network that projected discriminators look through.
_OF_PROJECTED = "efficientnet_lite0"

_logger = logging.getLogger("dermagan")


def evaluate(
    gan_workdir: Path,
    data_dir: Path,
    out: Path,
    *,
    features: str,
    per_class: int | None = None,
    step: int | None = None,
    split: str = "validation",
    seed: int = 0,
    commands: Sequence[str] = (),
) -> dict[str, Any]:
    """Measures the kept checkpoints of a GAN, and writes evaluation.json, figures and a report.

    Args:
      gan_workdir: the GAN's workdir.
      data_dir: the prepared set that it was trained on.
      out: folder to write: new, empty, or of an earlier evaluation, which is replaced.
      features: an extractor, as `features.find_extractor` reads it.
      per_class: generated images of each class; None for as many as there are training images.
      step: the one checkpoint to measure; None for all that are kept.
      split: the held-out lesions, `validation` or `test`.
      seed: of the latents, the floor's images, the bootstrap and the deals.
      commands: the command lines, for the report's footer.

    Returns:
      The document written to evaluation.json.

    Raises:
      DermaganError: bad input, before anything is computed.
      LeakError: the GAN, or the classifier behind `features`, was trained on another split, or the
        set's splits share lesions on purpose.
    """
    steps = _choose_steps(gan_workdir, step, split)
    real = _RealImages.load(data_dir, split)
    counts = real.counts_for(per_class)
    extractor = find_extractor(features)
    real.require_train_split(extractor.train_split_sha256, f"--features {features}")
    gans = [synthesis.load_gan(gan_workdir, step=each) for each in steps]
    for gan in gans:
        real.require_train_split(gan.train_split_sha256, str(gan_workdir))
    _require_ours(out)
    with files.held(out, doing="evaluating"):
        comparison = _Comparison(
            real, extractor, counts, seed, turned=gan_config.turns_reals(gans[0].config)
        )
        results, galleries = zip(*map(comparison.measure, gans), strict=True)
        best = min(range(len(results)), key=lambda index: _rank(results[index]))
        document = {
            **_settings(real, extractor),
            **_bearings(gans[0].config, extractor, split),
            "split": split,
            "seed": seed,
            "floor": comparison.floor,
            "checkpoints": list(results),
            "best_step": steps[best],
        }
        files.write_json(out / RESULT, document)
        evaluation_report.write(out, document, galleries[best], commands=commands)
    return document


def _settings(real: _RealImages, extractor: Extractor) -> dict[str, Any]:
    return {
        "kind": real.report["kind"],
        "train_split_sha256": real.report["split_hashes"]["train"],
        "features": {"name": extractor.name, "note": extractor.note, "side": extractor.side},
        "intervals": {"level": intervals.LEVEL, "resamples": intervals.NUM_RESAMPLES},
        "neighbours": generative.NEIGHBOURS,
    }


def _bearings(config: gan_config.Config, extractor: Extractor, split: str) -> dict[str, Any]:
    """Says how a GAN's training bears on the measures: its symmetries, and what favours it."""
    warnings = []
    if gan_config.discriminator(config) == "projected" and extractor.name == _OF_PROJECTED:
        remedy = " or ".join(f"{name}={TAKES_PATH[name]}" for name in ("inception_v3", "in_domain"))
        warnings.append(
            "The features come from the network that the GAN was trained through, and favour it; "
            f"measure it with --features {remedy} too"
        )
    if split == "validation" and gan_config.watch_features(config):
        warnings.append(
            "The run was watched on this validation split and kept the checkpoint with the lowest "
            "KID on it, so that this KID is better than on lesions that chose nothing"
        )
    turned = gan_config.turns_reals(config)
    return {"symmetries": diffaugment.NUM_TURNS if turned else 1, "warnings": warnings}


def _choose_steps(workdir: Path, step: int | None, split: str) -> list[int]:
    if step is not None:
        return [step]
    if split == "test":
        raise DermaganError(
            "--split test needs --step: the test split is read once, for the checkpoint that the "
            "validation split chose"
        )
    with Checkpoints(workdir, read_only=True) as checkpoints:
        steps = checkpoints.steps()
    if not steps:
        raise DermaganError(f"{workdir}: holds no whole checkpoint; train the GAN first")
    return steps


def _rank(result: Mapping[str, Any]) -> float:
    kid = result["generative"]["mean_class_kid"]
    return np.inf if kid is None else kid


@dataclasses.dataclass(frozen=True)
class _RealImages:
    """The training images and the held-out ones, which show other lesions."""

    folder: Path
    report: Mapping[str, Any]
    training: prepared.Split
    heldout: prepared.Split

    @classmethod
    def load(cls, folder: Path, split: str) -> _RealImages:
        report = prepared.load_report(folder)
        if report["leaky"]:
            raise LeakError(
                f"{folder}: its splits share lesions on purpose, so that none is held out; prepare "
                "a set that is split by lesion"
            )
        prepared.audit(folder)
        training, heldout = (prepared.load_split(folder, name) for name in ("train", split))
        for name, part in (("train", training), (split, heldout)):
            missing = [CLASSES[c] for c in range(NUM_CLASSES) if not (part.label == c).any()]
            if missing:
                raise DermaganError(
                    f"{folder}: the {name} split has no image of {', '.join(missing)}; prepare a "
                    "set with more images"
                )
        return cls(folder, report, training, heldout)

    def counts_for(self, per_class: int | None) -> dict[str, int]:
        """Says how many images to compare: as many generated as training images, for the floor."""
        training = np.bincount(self.training.label, minlength=NUM_CLASSES).tolist()
        if per_class is None:
            return dict(zip(CLASSES, training, strict=True))
        if not 1 <= per_class <= min(training):
            raise DermaganError(
                f"--per-class {per_class}: give 1 to {min(training)}, the training images of the "
                "smallest class: the floor compares as many real images"
            )
        return dict.fromkeys(CLASSES, per_class)

    def require_train_split(self, sha256: str | None, what: str) -> None:
        if sha256 is not None:
            prepared.require_train_split(
                sha256, self.report["split_hashes"]["train"], what, "name the set that it saw"
            )


def _require_ours(out: Path) -> None:
    is_ours = (out / RESULT).is_file() or (out.is_dir() and files.is_empty(out))
    if out.exists() and not is_ours:
        raise DermaganError(f"{out}: exists and is no evaluation; name another --out")


class _Comparison:
    """The real images' features and floor, computed once for all checkpoints.

    A GAN that was shown its training images in all eight symmetries may copy them in each: then
    copies are looked for in all, and every image of all sets has its turns.
    """

    def __init__(
        self,
        real: _RealImages,
        extractor: Extractor,
        counts: Mapping[str, int],
        seed: int,
        *,
        turned: bool,
    ) -> None:
        self._real, self._extractor, self._counts, self._seed = real, extractor, counts, seed
        self._turned = turned
        self._training, self._heldout = (
            self._features(split.image, split.label, split.lesion, what)
            for split, what in (
                (real.training, "training images"),
                (real.heldout, "held-out images"),
            )
        )
        chosen = self._training.take(self._draw_training())
        self.floor = _plain(generative.measure(chosen, self._heldout, seed=seed))

    def _features(
        self, image: np.ndarray, label: np.ndarray, lesion: np.ndarray, what: str
    ) -> FeatureSet:
        extract = partial(self._extractor.extract, label=what)
        return FeatureSet.compute(extract, image, label, lesion, turned=self._turned)

    def _draw_training(self) -> np.ndarray:
        """Chooses as many training images of each class as are generated."""
        rng = np.random.default_rng(self._seed)
        return np.concatenate(
            [
                rng.choice(np.flatnonzero(self._training.label == label), count, replace=False)
                for label, count in enumerate(self._counts.values())
            ]
        )

    def measure(self, gan: synthesis.TrainedGan) -> tuple[dict[str, Any], np.ndarray]:
        """Returns a checkpoint's measures and the gallery of its closest pairs."""
        _logger.info("generating %d images from step %d", sum(self._counts.values()), gan.step)
        generated = synthesis.generate(gan, per_class=self._counts, seed=self._seed)
        pictures = [generated.image, self._real.training.image, self._real.heldout.image]
        if pictures[0].shape[1:] != pictures[1].shape[1:]:
            raise DermaganError(
                f"{self._real.folder}: holds images of {pictures[1].shape[1]} pixels and the GAN "
                f"makes {pictures[0].shape[1]}; name the set that it was trained on"
            )
        ours = self._features(
            generated.image,
            generated.label,
            np.arange(len(generated.label)),
            f"images of step {gan.step}",
        )
        sets = (ours, self._training, self._heldout)
        pairs = memorization.closest_pairs(*sets, count=NUM_PAIRS)
        copies = [self._count_copies(pictures[0], each) for each in pictures[1:]]
        result = {
            "step": gan.step,
            "generative": _plain(generative.measure(ours, self._heldout, seed=self._seed)),
            "memorization": _plain(memorization.measure(*sets, seed=self._seed)),
            "exact_copies": {
                "images": len(generated.label),
                "training": copies[0],
                "heldout": copies[1],
            },
            "closest_pairs": self._describe(pairs, ours),
        }
        result["signs_of_copying"] = signs_of_copying(result)
        rows = [pictures[0][pairs.generated], pictures[1][pairs.training]]
        return result, np.concatenate([*rows, pictures[2][pairs.heldout]])

    def _count_copies(self, generated: np.ndarray, real: np.ndarray) -> int:
        views = diffaugment.turns(generated) if self._turned else generated[None]
        return int(np.any([memorization.exact_copies(view, real) for view in views], axis=0).sum())

    def _describe(self, pairs: memorization.ClosestPairs, ours: FeatureSet) -> list[dict[str, Any]]:
        return [
            {
                "class": CLASSES[ours.label[generated]],
                "training_image": str(self._real.training.image_id[training]),
                "heldout_image": str(self._real.heldout.image_id[heldout]),
                "training_distance": float(to_training),
                "heldout_distance": float(to_heldout),
            }
            for generated, training, heldout, to_training, to_heldout in zip(
                *(getattr(pairs, field.name) for field in dataclasses.fields(pairs)), strict=True
            )
        ]


def signs_of_copying(result: Mapping[str, Any]) -> list[str]:
    """Says in words which measures of a checkpoint speak for copying.

    Args:
      result: one of the document's `checkpoints`.

    Returns:
      A phrase a sign; none is no proof that nothing was copied.
    """
    signs = []
    copies = result["exact_copies"]["training"]
    if copies:
        signs.append(f"{copies} generated images equal a training image in every pixel")
    measured = result["memorization"]
    for name, found in {**measured["per_class"], "all classes": measured["overall"]}.items():
        where = name.replace("_", " ")
        auc = found["membership_auc"]
        if auc["low"] is not None and auc["low"] > 0.5:
            signs.append(
                f"training lesions can be told from held-out ones by their nearest generated image "
                f"({where}: membership AUC {auc['value']:.2f}, from {auc['low']:.2f})"
            )
        p_value = found["neighbour_ratio"]["p_value"]
        if p_value <= _LOW_P_VALUE:
            signs.append(
                f"generated images lie nearer to training than to held-out lesions than chance has "
                f"it ({where}: p = {p_value:.3f})"
            )
        if found["c_t"] < found["c_t_limit"]:
            signs.append(
                f"generated images lie nearer to training images than held-out ones do "
                f"({where}: C_T {found['c_t']:.1f}, below {found['c_t_limit']:.1f})"
            )
    return signs


def _plain(tree: Any) -> Any:
    """Returns nested dictionaries with their dataclasses as dictionaries too."""
    if isinstance(tree, Mapping):
        return {name: _plain(value) for name, value in tree.items()}
    if isinstance(tree, intervals.Estimate | memorization.NeighbourRatio):
        return dataclasses.asdict(tree)
    return tree
