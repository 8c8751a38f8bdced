"""Starting a GAN from the weights of another, if that has seen no lesion of the tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.data import prepared
from dermagan_jax.data.training import TrainingData
from dermagan_jax.errors import DermaganError
from dermagan_jax.state import GanState, NetState


def ancestors(source: Path, opened: TrainingData) -> list[dict[str, Any]]:
    """Lists the runs whose weights a run would start from, each of them audited.

    Args:
      source: the workdir of the run to start from.
      opened: the data of the run to come.

    Returns:
      From the first to `source`: `data_dir` and `train_split_sha256` of each, as JSON types.

    Raises:
      DermaganError: `source` is no GAN's workdir, or a set that it was trained on is gone.
      LeakError: one was trained on something of the validation or test split of `opened`.
    """
    provenance = _provenance(source)
    seen = [
        *provenance.get("pretraining", []),
        {
            "data_dir": provenance["config"]["data_dir"],
            "train_split_sha256": provenance["data"]["train_split_sha256"],
        },
    ]
    for each in seen:
        folder = Path(each["data_dir"])
        prepared.require_unseen(folder, each["train_split_sha256"], opened.folder)
    return seen


def start_from(source: Path, state: GanState) -> GanState:
    """Puts the weights of another run's last checkpoint into a new state.

    Statistics and the moving average come along; optimizers, ADA and the count of steps do not.

    Args:
      source: the workdir of the run to start from.
      state: a new state of networks of the same shape.

    Raises:
      DermaganError: its networks are others.
    """
    with Checkpoints(source, read_only=True) as checkpoints:
        stored = checkpoints.restore_arrays(_last(source, checkpoints), "state")

    def put(new: Any, old: Any) -> Any:
        if _shapes(new) != _shapes(old):
            raise DermaganError(
                f"{source}: its networks are not those of this configuration; give both runs the "
                "same config.model and config.conditioning"
            )
        return jax.tree.map(lambda here, there: jax.device_put(there, here.sharding), new, old)

    def net(new: NetState, old: Mapping[str, Any]) -> NetState:
        return new.replace(
            params=put(new.params, old["params"]),
            batch_stats=put(new.batch_stats, old.get("batch_stats") or {}),
        )

    return state.replace(
        g=net(state.g, stored["g"]),
        d=net(state.d, stored["d"]),
        g_ema=put(state.g_ema, stored["g_ema"]),
    )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}


def _provenance(source: Path) -> dict[str, Any]:
    with Checkpoints(source, read_only=True) as checkpoints:
        provenance = checkpoints.restore_config(_last(source, checkpoints))
    if "conditioning" not in provenance.get("config", {}):
        raise DermaganError(f"{source}: is not a GAN's workdir; name one that train_gan.py made")
    return provenance


def _last(source: Path, checkpoints: Checkpoints) -> int:
    step = checkpoints.latest_step()
    if step is None:
        raise DermaganError(f"{source}: holds no whole checkpoint; train that GAN first")
    return step
