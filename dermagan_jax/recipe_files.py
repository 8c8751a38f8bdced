"""Reading a recipe, a file such as configs/resgan.py: what can be wrong with it, in one message."""

from __future__ import annotations

import contextlib
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import ml_collections
from absl import flags

from dermagan_jax.errors import DermaganError

# The fields that name files or folders, in whatever part of a recipe.
_PATHS = frozenset(
    {
        *("data_dir", "gan_workdir", "dir", "extra_dir", "init_from"),
        *("more_real_dir", "beside"),
    }
)


def named(words: Sequence[str]) -> str:
    """Returns the recipe that a command line gives as --config, FILE or FILE:VARIANT; "" for none.

    Args:
      words: the command line.
    """
    for word, following in zip(words, [*words[1:], ""], strict=True):
        found = re.fullmatch(r"--?config(?:=(.*))?", word)
        if found:
            return following if found[1] is None else found[1]
    return ""


@contextlib.contextmanager
def errors_named(words: Sequence[str]) -> Iterator[None]:
    """Turns whatever goes wrong while the flags of a command line are read into one message.

    Args:
      words: the command line, the program first.

    Raises:
      DermaganError: there is no such file, variant, field or flag, a value is of another type, or
        the recipe itself fails.
    """
    text = named(words)
    path = Path(text.partition(":")[0])
    if text and not path.is_file():
        raise DermaganError(f"{path}: is no file; give a recipe, such as one of configs/")
    try:
        yield
    except Exception as error:  # A recipe is a program of its own, which may fail in any way.
        raise DermaganError(_message(error, text, path)) from error


def expand_home(config: ml_collections.ConfigDict) -> None:
    """Replaces a leading ~ in the fields of a recipe that name files or folders."""
    for name in config:
        value = config[name]
        if isinstance(value, ml_collections.ConfigDict):
            expand_home(value)
        elif name in _PATHS and isinstance(value, str):
            config[name] = _from_home(value)
        elif name in _PATHS and isinstance(value, tuple):
            config[name] = tuple(map(_from_home, value))


def _from_home(value: object) -> object:
    # An address in a store, such as gs://…, would not come through a Path unchanged.
    is_home = isinstance(value, str) and value.startswith("~")
    return str(Path(str(value)).expanduser()) if is_home else value


def _message(error: Exception, text: str, path: Path) -> str:
    first = _first(error)
    frames = traceback.extract_tb(first.__traceback__)
    if isinstance(first, SyntaxError) or any(_same(frame.filename, path) for frame in frames):
        # A recipe says with a ValueError which variants it has.
        if isinstance(first, ValueError):
            return f"--config {text}: {first}"
        return f"--config {text}: {type(first).__name__}: {first}; mend the recipe"
    if isinstance(error, flags.Error):
        return f"{str(error).rstrip(' .?')}; --help lists the flags"
    if isinstance(first, KeyError):
        return f"--config {text}: has no field {first}; {path} lists its fields"
    return f"--config {text}: {type(first).__name__}: {first}; mend the recipe"


def _first(error: BaseException) -> BaseException:
    """Returns what an exception came of in the end."""
    while before := error.__cause__ or error.__context__:
        error = before
    return error


def _same(filename: str, path: Path) -> bool:
    return Path(filename).resolve() == path.resolve()
