"""Several processes that train one model: how they meet, who writes, what all must agree on.

Each runs the same program. All of them take part in everything that touches the model's state; only
the first writes files (checkpoints aside, which Orbax writes together) and talks to the user.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from dermagan_jax.errors import DermaganError

Answer = TypeVar("Answer")


def meet(coordinator: str = "", num_processes: int = 0, process_id: int = -1) -> None:
    """Joins the processes of one run; it must be called before JAX is first used.

    Args:
      coordinator: HOST:PORT of process 0; "" where SLURM, Open MPI, Kubernetes or a Cloud TPU tells
        JAX all three.
      num_processes: how many there are; 0 likewise.
      process_id: which this one is, from 0; -1 likewise.

    Raises:
      DermaganError: JAX finds no such environment, or the processes don't meet.
    """
    given = (bool(coordinator), num_processes > 0, process_id >= 0)
    if any(given) and not all(given):
        raise DermaganError(
            "--coordinator, --num_processes and --process_id go together; give all three, or none "
            "under SLURM, Open MPI, a Kubernetes JobSet or on a Cloud TPU"
        )
    if coordinator and not re.fullmatch(r".+:\d+", coordinator):
        raise DermaganError(f"--coordinator is {coordinator!r}; give HOST:PORT")
    try:
        if coordinator:
            jax.distributed.initialize(coordinator, num_processes, process_id)
        else:
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DermaganError(
            f"--multihost: the processes don't meet ({reason}); start all of them, or name them "
            "with --coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from error


def is_primary() -> bool:
    """Whether this process is the one that writes files and talks."""
    return jax.process_index() == 0


def on_primary(work: Callable[[], Answer]) -> Answer:
    """Does something in the first process alone, and tells the others what came of it.

    All must call it at the same point; the others wait there, as long as it takes.

    Args:
      work: returns JSON types; its answer, or its error, reaches every process.

    Raises:
      DermaganError: in every process, as `work` raised it; in the others for any other error, too.
    """
    if jax.process_count() == 1:
        return work()
    if not is_primary():
        told = json.loads(_broadcast(b""))
        if "error" in told:
            raise DermaganError(told["error"])
        return told["answer"]
    try:
        answer = work()
    # Whatever it is, the others would wait for ever.
    except Exception as error:
        reason = str(error)
        if not isinstance(error, DermaganError):
            reason = f"process 0 ended by {type(error).__name__} ({error}); see what it says"
        _broadcast(json.dumps({"error": reason}).encode())
        raise
    _broadcast(json.dumps({"answer": answer}).encode())
    return answer


def any_of_all(happened: bool) -> bool:
    """Tells every process whether something happened in one of them; all must ask."""
    if jax.process_count() == 1:
        return happened
    return bool(np.any(multihost_utils.process_allgather(np.bool_(happened))))


def end_within(secs: float, code: int) -> None:
    """Ends this process after a while, if it still waits for the others of its run by then.

    At its end JAX gives them five minutes, also where they wait in turn for this one, which has met
    an error that they have not.

    Args:
      secs: how long to wait; enough for those that end by the same error.
      code: the exit code.
    """
    if jax.distributed.is_initialized():
        ending = threading.Timer(secs, os._exit, [code])
        ending.daemon = True
        ending.start()


def _broadcast(text: bytes) -> bytes:
    """Returns the first process's bytes in every process."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    if is_primary():
        padded[:] = np.frombuffer(text, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8).tobytes()
