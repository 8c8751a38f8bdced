"""What the training scripts share: their flags, and how a run is started and ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from dermagan_jax import compilation, console, memory, profiling

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The recipe, such as configs/RECIPE.py:paper; see the file for its fields."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of this run: checkpoints, metrics, figures and summary."
)
_PROFILE = flags.DEFINE_string(
    "profile",
    "",
    "START:END: write a trace of these steps to WORKDIR/profile.",
)
_COMPILATION_CACHE = flags.DEFINE_boolean(
    "compilation_cache", True, "Keep compiled programs in your cache folder for the next run."
)


def run(train: Callable[..., dict[str, Any]], show: Callable[[dict[str, Any], str], None]) -> None:
    """Trains by the flags, shows the summary, and ends the process.

    Args:
      train: called with the configuration, the workdir and `profile`.
      show: prints a summary, given the workdir as the user wrote it.
    """

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unknown argument {argv[1]!r}; values are given as --flag=VALUE")
        workdir, profile = console.folder(_WORKDIR.value), profiling.parse(_PROFILE.value)
        memory.keep_freed_memory()
        if _COMPILATION_CACHE.value:
            compilation.keep_programs()
        show(train(_CONFIG.value, workdir, profile=profile), _WORKDIR.value)

    # `--help` shows the flags of the script, and these are its own in all but the place.
    for name in ("config", "workdir", "profile", "compilation_cache"):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    flags.mark_flag_as_required("config")
    app.run(console.reports_errors(main))
