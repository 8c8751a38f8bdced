"""What the commands print: errors that a user can mend, and summaries to read at a glance."""

from __future__ import annotations

import errno
import functools
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from absl import logging as absl_logging

from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES
from dermagan_jax.preemption import Preempted
from dermagan_jax.workdir import seed_folder

USER_ERROR = 2
INTERRUPTED = 130
RESEARCH_USE = "Research use only: nothing here is a diagnosis or a medical device."
PHANTOM = "Phantom data: says nothing about skin."

# What a system answers where a disk is full or may not be written.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

Result = TypeVar("Result")


def reports_errors(command: Callable[..., Result]) -> Callable[..., Result]:
    """Wraps a command so that mendable errors end in one message and exit code 2.

    So does a disk that takes no more, wherever that is met. Ctrl-C ends in exit code 130 and
    SIGTERM, where it is listened to, in 143, as shells and schedulers know them; any other
    exception keeps its traceback, for it is ours to mend.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Result:
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        _say_it_once()
        # The scripts' own, which would put date, process and file before each message.
        absl_logging.get_absl_handler().setFormatter(logging.Formatter("%(message)s"))
        logging.getLogger("dermagan").setLevel(logging.INFO)
        # JAX notes every kind of accelerator that it looks for and does not find.
        logging.getLogger("jax").setLevel(logging.WARNING)
        try:
            return command(*args, **kwargs)
        except DermaganError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(USER_ERROR)
        except OSError as error:
            if error.errno not in _DISK:
                raise
            print(
                f"error: {error.filename or 'a file'}: cannot be written ({error.strerror}); "
                "choose a writable folder with free space",
                file=sys.stderr,
            )
            sys.exit(USER_ERROR)
        except Preempted as ended:
            print(
                f"ended by {ended.signal.name} after step {ended.step}, which is saved; run the "
                "same command again to go on",
                file=sys.stderr,
            )
            sys.exit(128 + ended.signal)
        except KeyboardInterrupt:
            print("interrupted; run the same command again to go on", file=sys.stderr)
            sys.exit(INTERRUPTED)

    return wrapped


@functools.cache
def _say_it_once() -> None:
    """Keeps the threads of libraries from printing a traceback of a full disk beside our error."""
    in_threads, at_exit = threading.excepthook, sys.unraisablehook

    def is_told(error: BaseException | None) -> bool:
        return isinstance(error, OSError) and error.errno in _DISK

    def in_thread(what: threading.ExceptHookArgs) -> None:
        if not is_told(what.exc_value):
            in_threads(what)

    def unraisable(what: sys.UnraisableHookArgs) -> None:
        if not is_told(what.exc_value):
            at_exit(what)

    threading.excepthook, sys.unraisablehook = in_thread, unraisable


def folder(text: str) -> Path:
    """Turns the flag --workdir into a path, with `~` expanded."""
    if not text:
        raise DermaganError("--workdir is missing; name a folder for this run, new or its own")
    if "://" in text:
        raise DermaganError(
            f"--workdir={text} is an address; name a folder of this machine, and give "
            f"--mirror={text} to keep a copy of it there"
        )
    return Path(text).expanduser()


def notice(kind: str) -> str:
    """Returns the sentence that stands beside every result on data of this kind."""
    return f"{PHANTOM} {RESEARCH_USE}" if kind == "phantom" else RESEARCH_USE


def table(header: list[str], rows: list[list[str]]) -> str:
    """Lays out a table in plain text, the first column left-aligned and the others right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(row: list[str]) -> str:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def percent(value: float | None) -> str:
    """Formats a share in [0, 1], or a dash where it is undefined."""
    return "-" if value is None else f"{value:.1%}"


def show_gan_summary(summary: Mapping[str, Any], workdir: str) -> None:
    """Prints what a GAN's training came to."""
    done = f"{summary['num_steps']:,} steps, {summary['kimg']:,.1f} thousand images"
    print(f"Trained {done}. Samples: {workdir}/samples")
    for alarm in summary["alarms"]:
        print(f"  alarm: {alarm['alarm']}, {alarm['class']}, step {alarm['step']}")
    for back in summary["rollbacks"]:
        print(f"  went back to step {back['step']}, learning rate {back['learning_rate']:g}")
    print(f"Next: dermagan generate --gan {workdir} --per-class 100 --out DIR")
    print(notice(summary["data"]["kind"]))


def show_classifier_summary(summary: Mapping[str, Any], workdir: str) -> None:
    """Prints a classifier's scores on the test split."""
    test = summary["test"]
    print(
        f"Trained on {summary['num_train_real']:,} real and "
        f"{summary['num_train_generated']:,} generated images, {summary['num_steps']:,} steps; "
        f"best validation loss at step {summary['best_step']:,}."
    )
    columns = ["sensitivity", "specificity", "precision", "auc"]
    rows = [
        [name, *(percent(test["per_class"][name][column]) for column in columns)]
        for name in CLASSES
    ]
    print(table([f"test, n = {test['n']}", *columns], rows))
    print(
        f"accuracy {percent(test['accuracy'])}, balanced {percent(test['balanced_accuracy'])}, "
        f"loss {test['loss']:.3f}. Figures: {workdir}/figures"
    )
    print(notice(summary["data"]["kind"]))


def show_seeds(found: Mapping[str, Any], workdir: str) -> None:
    """Prints the scores of several seeds on the test split: see `seeds.summarise`."""
    test = found["test"]
    print(
        f"Trained {len(found['seeds'])} seeds on {found['num_train_real']:,} real and "
        f"{found['num_train_generated']:,} generated images, {found['num_steps']:,} steps each."
    )
    rows = [
        [f"seed {seed}", percent(accuracy), percent(balanced), f"{loss:.3f}"]
        for seed, accuracy, balanced, loss in zip(
            found["seeds"], *(test[name]["values"] for name in test), strict=True
        )
    ]
    for label, field in {"mean": "mean", "standard deviation": "sd"}.items():
        accuracy, balanced, loss = (test[name][field] for name in test)
        last = "-" if loss is None else f"{loss:.3f}"
        rows.append([label, percent(accuracy), percent(balanced), last])
    print(table(["test", "accuracy", "balanced", "loss"], rows))
    print(f"Each seed's run: {seed_folder(Path(workdir), found['seeds'][0])} and so on")
    print(notice(found["data"]["kind"]))
