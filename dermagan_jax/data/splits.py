"""Splits by lesion: what belongs together stays together; counts are exact where that allows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES, NUM_CLASSES

SPLITS = ("train", "validation", "test")
UNUSED = "unused"
OTHERS = "others"
"""Beside the three: lesions of other diagnoses, for a GAN's pre-training alone."""
REST = "rest"
_UNLIMITED = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class SplitPlan:
    """How many images go where.

    Attributes:
      test_per_class: images of each class in the test split, or "rest": all that the training
        and validation splits leave.
      validation_fraction: share of what is left beside the test split.
      train_per_class: most images of each class in training, or None.
      caps: most images of each class in all, by class name.
      split_by: "lesion", or "image", which leaks and is only for showing that it does.
    """

    test_per_class: int | str = 100
    validation_fraction: float = 0.15
    train_per_class: int | None = None
    caps: Mapping[str, int] | None = None
    split_by: str = "lesion"

    def __post_init__(self) -> None:
        if self.split_by not in ("lesion", "image"):
            raise DermaganError(f"split_by is {self.split_by!r}; give 'lesion' or 'image'")
        is_share = isinstance(self.validation_fraction, float) and 0 < self.validation_fraction < 1
        if not is_share:
            raise DermaganError(
                f"validation_fraction is {self.validation_fraction!r}; give a share above 0 and "
                "below 1"
            )
        if self.test_per_class == REST and self.train_per_class is None:
            raise DermaganError("test_per_class 'rest' needs train_per_class, or nothing is left")
        if self.test_per_class != REST and not _is_count(self.test_per_class):
            raise DermaganError(
                f"test_per_class is {self.test_per_class!r}; give a number from 1, or 'rest'"
            )
        if self.caps is not None and not isinstance(self.caps, Mapping):
            raise DermaganError(f"caps is {self.caps!r}; give a number for each class by name")
        for name, cap in (self.caps or {}).items():
            if name not in CLASSES or not _is_count(cap):
                raise DermaganError(
                    f"caps: {name!r} is {cap!r}; give a number from 1 for any of "
                    f"{', '.join(CLASSES)}"
                )
        if self.train_per_class is not None and not _is_count(self.train_per_class):
            raise DermaganError(
                f"train_per_class is {self.train_per_class!r}; give a number from 1"
            )


def group_images(lesion_ids: Sequence[str | None], links: np.ndarray) -> np.ndarray:
    """Groups images that must share a split.

    Args:
      lesion_ids: [N] lesion of each image, or None.
      links: [M, 2] int pairs of images that look alike.

    Returns:
      [N] int64: the place of the first image of each image's group.
    """
    count = len(lesion_ids)
    first: dict[str, int] = {}
    edges = [(int(a), int(b)) for a, b in links]
    for index, lesion in enumerate(lesion_ids):
        if lesion:
            edges.append((first.setdefault(lesion, index), index))
    row, column = np.asarray(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(row)), (row, column)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    leader = np.full(component.max(initial=-1) + 1, count, np.int64)
    np.minimum.at(leader, component, np.arange(count))
    return leader[component]


def assign_splits(
    label: np.ndarray, group: np.ndarray, *, plan: SplitPlan, seed: int
) -> np.ndarray:
    """Assigns every image to a split, whole groups at a time.

    Args:
      label: [N] int labels.
      group: [N] int groups; ignored when the plan splits by image.
      plan: how many go where.
      seed: of the draw; a class's draw does not depend on the other classes.

    Returns:
      [N] str: "train", "validation", "test" or "unused".

    Raises:
      DermaganError: when a class has too few lesions for three splits.
    """
    if plan.split_by == "image":
        group = np.arange(len(label))
    draw = _Draw(label, group, seed)
    caps = [(plan.caps or {}).get(name) for name in CLASSES]
    if any(cap is not None for cap in caps):
        draw.take("used", [_UNLIMITED if cap is None else cap for cap in caps])
        draw.retire_untaken("used")
    if plan.test_per_class == REST:
        _split_with_rest(draw, plan)
    else:
        _split_with_test(draw, plan)
    draw.require_all_splits(plan)
    return draw.split


def _split_with_test(draw: _Draw, plan: SplitPlan) -> None:
    draw.take_exactly("test", int(plan.test_per_class))
    left = draw.num_left()
    if plan.train_per_class is not None:
        most = round(plan.train_per_class / (1 - plan.validation_fraction))
        left = np.minimum(left, most)
    validation = np.maximum(np.round(left * plan.validation_fraction).astype(int), 1)
    draw.take("validation", validation.tolist())
    draw.take_one_at_least("validation")
    limit = _UNLIMITED if plan.train_per_class is None else plan.train_per_class
    draw.take("train", [limit] * NUM_CLASSES)


def _split_with_rest(draw: _Draw, plan: SplitPlan) -> None:
    if plan.train_per_class is None:
        raise ValueError("where the test takes the rest, the plan says what training takes")
    share = plan.validation_fraction / (1 - plan.validation_fraction)
    draw.take("train", [plan.train_per_class] * NUM_CLASSES)
    draw.take("validation", [round(plan.train_per_class * share)] * NUM_CLASSES)
    draw.take("test", [_UNLIMITED] * NUM_CLASSES)


class _Draw:
    """Groups in a random order a class, taken from the front."""

    def __init__(self, label: np.ndarray, group: np.ndarray, seed: int) -> None:
        self.split = np.full(len(label), UNUSED, "U10")
        self._label = label
        self._leaders, self._member = np.unique(group, return_inverse=True)
        # [G, 4]: a group has images of more than one class where an archive contradicts itself.
        self._counts = np.zeros((len(self._leaders), NUM_CLASSES), np.int64)
        np.add.at(self._counts, (self._member, label), 1)
        self._taken = np.full(len(self._leaders), UNUSED, "U10")
        self._is_out = np.zeros(len(self._leaders), bool)
        main_class = self._counts.argmax(axis=1)
        self._order = [
            np.random.default_rng([seed, each]).permutation(np.flatnonzero(main_class == each))
            for each in range(NUM_CLASSES)
        ]

    def take_exactly(self, name: str, wanted: int) -> None:
        """Takes groups that hold exactly `wanted` images of each class.

        Groups go in by their random order, but for one that would leave a number that no choice of
        the later groups makes up. A group of two classes, where an archive contradicts itself, is
        passed over: what it is cannot be tested.
        """
        for label, order in enumerate(self._order):
            free = [each for each in order if self._is_free(each) and self._is_pure(each)]
            size = self._counts[free, label].tolist()
            # Bit n of reachable[i]: some of the groups from the i-th on hold n images together.
            reachable = [1]
            for each in reversed(size):
                sums = reachable[-1] | reachable[-1] << each
                reachable.append(sums & ((2 << wanted) - 1))
            reachable.reverse()
            if not reachable[0] >> wanted & 1:
                raise DermaganError(
                    f"class {CLASSES[label]}: {wanted} {name} images are asked for, and no choice "
                    f"among its {len(size)} lesions ({sum(size)} images) gives that number; change "
                    "--test-per-class or add images"
                )
            room = wanted
            for place, each in enumerate(free):
                if size[place] <= room and reachable[place + 1] >> room - size[place] & 1:
                    self._taken[each] = name
                    room -= size[place]
        self.split = self._taken[self._member]

    def _is_free(self, group: int) -> bool:
        return bool(self._taken[group] == UNUSED and not self._is_out[group])

    def _is_pure(self, group: int) -> bool:
        return int(np.count_nonzero(self._counts[group])) == 1

    def take(self, name: str, wanted: Sequence[int]) -> None:
        """Takes groups for a split as long as they fit in what is wanted of each class."""
        room = np.asarray(wanted, np.int64).copy()
        for order in self._order:
            for each in order:
                if self._is_free(each) and (self._counts[each] <= room).all():
                    self._taken[each] = name
                    room -= self._counts[each]
        self.split = self._taken[self._member]

    def take_one_at_least(self, name: str) -> None:
        """Takes the smallest free group of each class of which none is taken under `name`."""
        for label, order in enumerate(self._order):
            if not (self._taken[order] == name).any():
                free = [each for each in order if self._is_free(each)]
                if free:
                    self._taken[min(free, key=lambda each: self._counts[each, label])] = name
        self.split = self._taken[self._member]

    def retire_untaken(self, name: str) -> None:
        """Puts what was not taken out of reach, and frees what was taken under `name`."""
        self._is_out = self._taken != name
        self._taken[:] = UNUSED

    def num_left(self) -> np.ndarray:
        """[4] images of each class that no split has taken."""
        return self._counts[(self._taken == UNUSED) & ~self._is_out].sum(axis=0)

    def require_all_splits(self, plan: SplitPlan) -> None:
        """Raises a DermaganError when a class is missing from a split."""
        for each, name in enumerate(CLASSES):
            for split in SPLITS:
                if not ((self.split == split) & (self._label == each)).any():
                    raise DermaganError(
                        f"class {name}: its {int((self._label == each).sum())} images in "
                        f"{len(self._order[each])} lesions leave none for {split}; lower "
                        f"--test-per-class (now {plan.test_per_class}) or add images"
                    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
