"""Errors in one message and exit code 2; tables that line up."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from dermagan_jax import console
from dermagan_jax.errors import DermaganError, ImageError


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DermaganError("data: missing; give another"), 2, "error: data: missing; give another\n"),
        (ImageError("x.jpg", "is empty"), 2, "error: x.jpg: is empty\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a.png"),
            2,
            "error: runs/a.png: cannot be written (No space left on device); choose a writable "
            "folder with free space\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on\n"),
    ],
)
def test_what_a_user_can_mend_ends_in_one_message(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        console.reports_errors(command)()
    assert caught.value.code == code
    assert capsys.readouterr().err == text


def test_an_address_is_no_folder() -> None:
    with pytest.raises(DermaganError, match=r"--workdir=gs://b/run is an address; .* --mirror=gs:"):
        console.folder("gs://b/run")


def test_our_own_mistakes_keep_their_traceback() -> None:
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        console.reports_errors(command)()


def test_results_pass_through() -> None:
    assert console.reports_errors(lambda x: x + 1)(2) == 3


def test_tables_line_up() -> None:
    text = console.table(["arm", "n"], [["real", "1,000"], ["real and more", "7"]])
    assert text.splitlines() == [
        "arm                n",
        "-------------  -----",
        "real           1,000",
        "real and more      7",
    ]


def test_notices_and_percentages() -> None:
    assert console.notice("phantom").startswith("Phantom data: says nothing about skin.")
    assert "Research use only" in console.notice("phantom")
    assert "Phantom" not in console.notice("real")
    assert (console.percent(0.4567), console.percent(None)) == ("45.7%", "-")


def test_a_full_disk_is_said_once_and_all_else_as_ever() -> None:
    program = """
import errno, threading
from dermagan_jax import console
console.reports_errors(lambda: None)()
def fail(error):
    def work():
        raise error
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
fail(OSError(errno.ENOSPC, "No space left on device"))
fail(ZeroDivisionError("ours to mend"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "ours to mend" in done.stderr
    assert "No space" not in done.stderr
