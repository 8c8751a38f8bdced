"""Keeps compiled programs between runs, in the user's cache folder."""

from __future__ import annotations

import logging
from pathlib import Path

import jax
import platformdirs

# Below this a program compiles about as fast as it is read.
MIN_COMPILE_SECS = 0.3

_logger = logging.getLogger("dermagan")


def keep_programs() -> Path | None:
    """Makes JAX keep what it compiles, readable by the user alone, for the next run.

    A folder that the user chose for all of JAX (`JAX_COMPILATION_CACHE_DIR`) stays as it is.

    Returns:
      The folder, or None where it cannot be used; then every run compiles anew.
    """
    chosen = jax.config.values["jax_compilation_cache_dir"]
    if chosen:
        return Path(chosen)
    folder = platformdirs.user_cache_path("dermagan_jax", appauthor=False) / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A program from this folder is run: nobody else may put one there.
        folder.chmod(0o700)
    except OSError as error:
        _logger.info("compiled programs are not kept: %s (%s)", folder, error.strerror)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECS)
    return folder
