"""What is compared with what; a table that reads like one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from benchmarks import data
from benchmarks.photographs import photographs
from benchmarks.turns import OURS, Case, Side
from dermagan_jax.data import prepared

_TORCH = (
    Side("PyTorch, channels-last", "peer_torch", {"channels_last": True}),
    Side("PyTorch, contiguous", "peer_torch"),
)
_TORCH_COMPILED = (
    *_TORCH,
    Side("PyTorch, compiled", "peer_torch", {"channels_last": True, "compiled": True}),
)
_KERAS = (
    Side("Keras fit", "peer_keras"),
    Side("Keras fit, XLA", "peer_keras", {"jit_compile": True}),
)


def _gan_step(batch_size: int, units: int, target: float | None) -> Case:
    return Case(
        name=f"gan_step_{batch_size}",
        job="gan_step",
        parameters={"batch_size": batch_size},
        peers=_TORCH_COMPILED,
        unit=f"a GAN update, batch {batch_size}",
        units=units,
        images=batch_size,
        target=target,
    )


def _cnn_step(batch_size: int, policy: str, units: int, target: float | None) -> Case:
    augmented = "" if policy == "none" else ", augmented"
    return Case(
        name=f"cnn_step_{batch_size}{'' if policy == 'none' else '_augmented'}",
        job="cnn_step",
        parameters={"batch_size": batch_size, "policy": policy},
        peers=(*_TORCH_COMPILED, *_KERAS),
        unit=f"a CNN update, batch {batch_size}{augmented}",
        units=units,
        images=batch_size,
        target=target,
    )


def _generate(batch_size: int, units: int, target: float | None) -> Case:
    return Case(
        name=f"generate_{batch_size}",
        job="generate",
        parameters={"batch_size": batch_size},
        peers=_TORCH_COMPILED,
        unit=f"{batch_size} images generated",
        units=units,
        images=batch_size,
        target=target,
    )


def _cnn_seeds(num_seeds: int, target: float | None) -> Case:
    batch_size = 64
    return Case(
        name=f"seeds_{num_seeds}",
        job="cnn_seeds",
        parameters={"num_seeds": num_seeds, "batch_size": batch_size, "policy": "paper"},
        peers=(Side("one seed after another", "ours", {"in_turn": True}),),
        unit=f"an augmented CNN update of each of {num_seeds} seeds, batch {batch_size}",
        units=max(2, 40 // num_seeds),
        images=batch_size * num_seeds,
        target=target,
    )


STEPS = (
    _gan_step(16, 4, None),
    _gan_step(64, 1, 1.0),
    _gan_step(128, 1, None),
    _cnn_step(30, "none", 20, None),
    _cnn_step(64, "none", 10, 1.0),
    _cnn_step(30, "notebook", 20, None),
    _cnn_step(64, "notebook", 10, None),
    _generate(1, 50, None),
    _generate(64, 4, 1.0),
    _generate(512, 1, None),
    *(_cnn_seeds(num_seeds, 0.9 if num_seeds == 8 else None) for num_seeds in (1, 2, 4, 8, 16)),
)


def _epoch(
    name: str, job: str, unit: str, *, ours: Side, peers: tuple[Side, ...], target: float
) -> Case:
    """An epoch of CNN steps on the training split of the set that the benchmarks read."""
    data_dir, batch_size = data.phantom_set(), 64
    num_images = sum(prepared.load_report(data_dir)["counts"]["train"].values())
    return Case(
        name=name,
        job=job,
        parameters={"batch_size": batch_size, "data_dir": str(data_dir)},
        ours=ours,
        peers=peers,
        unit=f"{unit.format(num_images)}, batch {batch_size}",
        units=1,
        images=num_images // batch_size * batch_size,
        target=target,
    )


def epoch() -> Case:
    """An epoch with the reading of the split from disk in it."""
    folders = str(data.class_folders(data.phantom_set()))
    return _epoch(
        "epoch_64",
        "epoch",
        "an epoch of {:,} images from disk",
        ours=OURS,
        peers=tuple(
            Side(
                f"PyTorch, {workers} loader processes",
                "peer_torch",
                {"workers": workers, "class_folders": folders},
            )
            for workers in (0, 2)
        ),
        target=1.0,
    )


def later_epoch() -> Case:
    """What feeding the steps costs, once the set is read."""
    return _epoch(
        "later_epoch_64",
        "later_epoch",
        "a later epoch of {:,} images",
        ours=Side(OURS.name, "ours", {"is_fed": True}),
        peers=(Side("dermagan_jax, one batch over and over", "ours", {"is_fed": False}),),
        target=1.05,  # 95% of the rate of the steps alone.
    )


def _prepare(num_images: int, *, warm: bool = False, most_turns: int = 3) -> Case:
    """Raw photographs to images of 64 pixels on disk, by two processes."""
    source = photographs(num_images)
    return Case(
        name=f"prepare_{num_images // 1000}k",
        job="prepare",
        parameters={
            "photographs": str(source),
            "out": str(source.with_name(f"{source.name}_prepared")),
            "processes": 2,
        },
        ours=Side("dermagan_jax", "ours_data"),
        peers=(
            Side("PyTorch loader, Pillow's resize", "peer_resize"),
            Side("PyTorch loader, tensors' resize", "peer_resize", {"tensors": True}),
        ),
        unit=f"{num_images:,} photographs prepared",
        units=1,
        images=num_images,
        target=1.0,
        warm=warm,
        most_turns=most_turns,
    )


FROM_DISK: Mapping[str, Callable[[], Case]] = {
    "epoch_64": epoch,
    "later_epoch_64": later_epoch,
    "prepare_1k": partial(_prepare, 1_000, warm=True),
    "prepare_10k": partial(_prepare, 10_000),
}
"""Cases by name that need data: it is made when the case is."""

LONG: Mapping[str, Callable[[], Case]] = {
    "prepare_100k": partial(_prepare, 100_000, most_turns=1),
}
"""Those that take an hour and 10 GB of disk: only with `--long`."""
