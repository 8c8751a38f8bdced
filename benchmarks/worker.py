"""One side of a comparison, in a process of its own: `python -m benchmarks.worker SIDE JOB JSON`.

A job is a function of `ours`, `peer_torch` or `peer_keras` that does all set-up and returns a
function of a number: that many units of work, done when it returns. The worker answers each line
`N` on standard input with the seconds that N units took, so that sides can take turns without being
set up anew.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time


def main(side: str, job: str, parameters: str) -> None:
    """Sets the job up, then works on demand until standard input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # What libraries print is no answer.
    start = time.perf_counter()
    module = importlib.import_module(f"benchmarks.{side}")
    import_s = time.perf_counter() - start
    work = getattr(module, job)(**json.loads(parameters))
    work(1)
    first_s = time.perf_counter() - start - import_s
    _answer(answers, import_s=import_s, first_s=first_s, versions=module.VERSIONS)
    for line in sys.stdin:
        start = time.perf_counter()
        work(int(line))
        seconds = time.perf_counter() - start
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        _answer(answers, seconds=seconds, peak_mib=peak_kib / 1024)


def _answer(stream: object, **fields: object) -> None:
    print(json.dumps(fields), file=stream, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
