"""The parts of a study on disk: each is made once, by one process, and found again by its content.

A part is a GAN, a folder of generated images, or the classifiers of one arm. Its folder is named
after a hash of all that it depends on, so that a changed arm is made anew and the rest is not.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from dermagan_jax.errors import DermaganError

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


@contextlib.contextmanager
def claimed(study: Path, name: str) -> Iterator[bool]:
    """Claims a part for this process, until the block or the process ends.

    Args:
      study: the study's folder, which must be on a file system with locks.
      name: the part's.

    Yields:
      Whether the claim succeeded; False when another process has it.

    Raises:
      DermaganError: the folder cannot be written.
    """
    path = study / CLAIMS / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise DermaganError(
            f"{path}: cannot be written ({error.strerror}); name another --out"
        ) from error
    with lock:
        try:
            # The system frees it when the process dies, however it does.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
