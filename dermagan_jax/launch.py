"""What the training scripts share: their flags, and how a run is started and ends."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from dermagan_jax import (
    compilation,
    console,
    hosts,
    memory,
    parallel,
    profiling,
    recipe_files,
    remote,
    seeds,
    workdir,
)
from dermagan_jax.errors import DermaganError

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
_MIRROR = flags.DEFINE_string(
    "mirror",
    "",
    "Address such as gs://BUCKET/RUN or s3://BUCKET/RUN: a copy of the workdir, fetched when the "
    "workdir is new, brought up to date every minute and at the end.",
)
_COMPILATION_CACHE = flags.DEFINE_boolean(
    "compilation_cache", True, "Keep compiled programs in your cache folder for the next run."
)


_MULTIHOST = flags.DEFINE_boolean(
    "multihost",
    False,
    "Train one model on the devices of several processes, each started with this command. SLURM, "
    "Open MPI, Kubernetes and Cloud TPUs say who they are; else give the next three flags.",
)
_COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT at which process 0 listens.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "How many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Which of them this one is, from 0.")

_FAREWELL_SECS = 30.0

Train = Callable[..., dict[str, Any]]
Show = Callable[[dict[str, Any], str], None]


def run(train: Train, show: Show, *, several: tuple[Train, Show] | None = None) -> None:
    """Trains by the flags, shows the summary, and ends the process.

    Args:
      train: called with the configuration, the workdir and `profile`.
      show: prints a summary, given the workdir as the user wrote it.
      several: the same two for several seeds at once, which come after the configuration; gives the
        script the flag --seeds.
    """

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise DermaganError(f"unknown argument {argv[1]!r}; values are given as --flag=VALUE")
        config, folder = _CONFIG.value, console.folder(_WORKDIR.value)
        recipe_files.expand_home(config)
        profile = profiling.parse(_PROFILE.value)
        chosen = seeds.parse(flags.FLAGS.seeds) if several else []
        memory.keep_freed_memory()
        if _COMPILATION_CACHE.value:
            compilation.keep_programs()
        if _MULTIHOST.value:
            _meet(chosen)
        if several and chosen:
            parallel.one_device_a_core(len(chosen))
        with contextlib.ExitStack() as stack:
            hosts.on_primary(lambda: _bring(config, folder, stack))
            if remote.is_remote(config.data_dir):
                config.data_dir = str(folder / workdir.DATA)
            if several and chosen:
                train_seeds, summarise = several
                summary = train_seeds(config, chosen, folder, profile=profile)
            else:
                summarise, summary = show, train(config, folder, profile=profile)
            # The others wait for the last push, and hear whether it came to its end.
            hosts.on_primary(stack.close)
        if hosts.is_primary():
            summarise(summary, _WORKDIR.value)

    if several:
        flags.DEFINE_string(
            "seeds", "", "FIRST:END: train these seeds at once, such as 0:8 for seeds 0 to 7."
        )
    # `--help` shows the flags of the script, and these are its own in all but the place.
    names = ["config", "workdir", "mirror", "profile", "compilation_cache"]
    names += ["multihost", "coordinator", "num_processes", "process_id"]
    for name in [*names, "seeds"] if several else names:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    flags.mark_flag_as_required("config")
    app.run(ends_soon(console.reports_errors(main)), flags_parser=_parse)


@console.reports_errors
def _parse(words: list[str]) -> list[str]:
    """Reads the flags, as absl does, and says in one message what is wrong with them."""
    with recipe_files.errors_named(words):
        return flags.FLAGS(words)


def ends_soon(command: Callable[..., None]) -> Callable[..., None]:
    """Wraps a command so that one of several processes ends soon after an error of its own."""

    @functools.wraps(command)
    def wrapped(argv: list[str]) -> None:
        code: object = 1
        try:
            command(argv)
            code = 0
        except SystemExit as ended:
            code = ended.code
            raise
        finally:
            # What a signal ends, all end together, and may take their time.
            if code in (1, console.USER_ERROR):
                hosts.end_within(_FAREWELL_SECS, int(code))

    return wrapped


def _bring(config: ConfigDict, folder: Path, stack: contextlib.ExitStack) -> None:
    """Brings the workdir and the data here, from where they lie in a store.

    Other processes are kept out of the workdir as long as `stack` is.
    """
    if _MIRROR.value:
        stack.enter_context(remote.Mirror(_MIRROR.value, folder))
    elif remote.is_remote(config.data_dir):
        stack.enter_context(workdir.reserved(folder))
    if remote.is_remote(config.data_dir):
        remote.fetch(config.data_dir, folder / workdir.DATA)


def _meet(chosen: Sequence[int]) -> None:
    if chosen:
        raise DermaganError(
            "--seeds and --multihost exclude each other; give each host seeds of its own, without "
            "--multihost"
        )
    hosts.meet(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if not hosts.is_primary():
        logging.getLogger("dermagan").setLevel(logging.ERROR)
