"""One side of a comparison, in a process of its own: `python -m benchmarks.worker SIDE JOB JSON N`.

A job is a function of `ours`, `peer_torch` or `peer_keras` that does all set-up and returns a
function of a number: that many units of work, done when it returns. The worker does N of them as
part of its set-up (0 where a unit takes minutes), then answers each line `N` on standard input with
the seconds that N units took, so that sides can take turns without being set up anew.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path

_LOOK_SECS = 1.0


def main(side: str, job: str, parameters: str, first_units: str) -> None:
    """Sets the job up, then works on demand until standard input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # What libraries print is no answer.
    start = time.perf_counter()
    module = importlib.import_module(f"benchmarks.{side}")
    import_s = time.perf_counter() - start
    work = getattr(module, job)(**json.loads(parameters))
    work(int(first_units))
    first_s = time.perf_counter() - start - import_s
    _answer(answers, import_s=import_s, first_s=first_s, versions=module.VERSIONS)
    helpers = _HelpersPeak()
    helpers.start()
    for line in sys.stdin:
        start = time.perf_counter()
        work(int(line))
        seconds = time.perf_counter() - start
        _answer(
            answers,
            seconds=seconds,
            peak_mib=_peak_kib(_status("self")) / 1024,
            helper_peak_mib=helpers.kib / 1024,
        )


class _HelpersPeak(threading.Thread):
    """Looks now and then how large the processes that this one started have been."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.kib = 0

    def run(self) -> None:
        while True:
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):  # It has ended since.
                    status = _status(process.name)
                    if int(status["PPid"]) == os.getpid():
                        self.kib = max(self.kib, _peak_kib(status))
            time.sleep(_LOOK_SECS)


def _status(process: str) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def _peak_kib(status: dict[str, str]) -> int:
    """Returns the most memory that the program had; 0 of a process that has ended.

    `getrusage` would count what the process shared with its parent before it ran a program.
    """
    return int(status.get("VmHWM", "0 kB").split()[0])


def _answer(stream: object, **fields: object) -> None:
    print(json.dumps(fields), file=stream, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
