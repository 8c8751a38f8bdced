"""The parts of a study on disk: each is made once, by one process, and found again by its content.

A part is a GAN, a folder of generated images, or the classifiers of one arm. Its folder is named
after a hash of all that it depends on, so that a changed arm is made anew and the rest is not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from dermagan_jax import files

CLAIMS = "claims"
WAIT_SECONDS = 5.0
_HASH_LENGTH = 16

# Where something lies, how it is spread over devices, and how often a run reports, do not change
# what comes of it. Of files, their contents are among a key's inputs. A run that ends without going
# back is the same whether it was allowed to.
_WITHOUT_EFFECT = frozenset(
    {
        *("data_dir", "seed", "variant", "steps_per_call", "mesh", "log_every_steps"),
        *("keep_checkpoints", "rollbacks", "rollback_checkpoints", "init_from"),
        *("real.extra_dir", "synthetic.dir", "synthetic.gan_workdir", "model.weights"),
    }
)
# Without a watch the last checkpoint of a GAN is taken, however many there are.
_WITHOUT_WATCH = frozenset({"checkpoint_every_steps", "watch.per_class", "watch.patience"})


def key(config: ml_collections.ConfigDict, **inputs: Any) -> str:
    """Hashes what a part depends on.

    Args:
      config: its configuration; paths in it do not count, nor does its seed.
      **inputs: content hashes of the data, seeds and names, as JSON types.

    Returns:
      Sixteen hexadecimal digits.
    """
    fields = dict(_flatten(config.to_dict()))
    ignored = _WITHOUT_EFFECT
    if not fields.get("watch.features"):
        ignored |= _WITHOUT_WATCH
    counted = {name: value for name, value in fields.items() if name not in ignored}
    document = json.dumps(_plain({"config": counted, "inputs": inputs}), sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()[:_HASH_LENGTH]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _plain(value: Any) -> Any:
    """Writes 1 and 1.0 alike, wherever they are."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def claimed(study: Path, name: str) -> contextlib.AbstractContextManager[bool]:
    """Claims a part for this process, until the block or the process ends.

    Args:
      study: the study's folder.
      name: the part's.

    Returns:
      A context that gives whether the claim succeeded; False when another process has it.

    Raises:
      DermaganError: the folder cannot be written.
    """
    return files.locked(study / CLAIMS / name)


@contextlib.contextmanager
def awaited(study: Path, name: str) -> Iterator[None]:
    """Claims a part as `claimed` does, after the process that has it.

    Args:
      study: the study's folder.
      name: the part's.
    """
    while True:
        with claimed(study, name) as ours:
            if ours:
                yield
                return
        time.sleep(WAIT_SECONDS)
