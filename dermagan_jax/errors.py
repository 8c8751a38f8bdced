"""The one family of errors that a user is meant to read: what is wrong, where, and the remedy."""

from __future__ import annotations


class DermaganError(Exception):
    """Bad input or a state the user can mend: shown without a traceback, exit code 2.

    The message names the file or field, the value found and the remedy, in one or two lines.
    """


class ImageError(DermaganError):
    """An image file that cannot be decoded; keeps `path` and `reason` for the quarantine list."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple:
        # Exceptions are rebuilt from `args` when they cross a process boundary; ours takes two.
        return type(self), (self.path, self.reason)


class LeakError(DermaganError):
    """A lesion or near duplicate shared by two splits, or a GAN trained on other lesions."""


class TrainingError(DermaganError):
    """Training met a non-finite loss or state; names the step and the last good checkpoint."""
