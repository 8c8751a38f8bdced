"""The parts of a study on disk: each is made once, by one process, and found again by its content.

A part is a GAN, a folder of generated images, or the classifiers of one arm. Its folder is named
after a hash of all that it depends on, so that a changed arm is made anew and the rest is not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from dermagan_jax import files

CLAIMS = "claims"
_HASH_LENGTH = 16

# Where something lies, and how often a run reports, does not change what comes of it.
_WITHOUT_EFFECT = (
    "data_dir",
    "seed",
    "steps_per_call",
    "keep_checkpoints",
    "real.extra_dir",
    "synthetic.dir",
    "synthetic.gan_workdir",
)


def key(config: ml_collections.ConfigDict, **inputs: Any) -> str:
    """Hashes what a part depends on.

    Args:
      config: its configuration; paths in it do not count, nor does its seed.
      **inputs: content hashes of the data, seeds and names, as JSON types.

    Returns:
      Sixteen hexadecimal digits.
    """
    fields = {
        name: value for name, value in _flatten(config.to_dict()) if name not in _WITHOUT_EFFECT
    }
    document = json.dumps({"config": fields, "inputs": inputs}, sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()[:_HASH_LENGTH]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


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
