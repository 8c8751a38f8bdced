"""One process of a training run, alone or of several: `python host_program.py '{JSON}'`.

Rounding, of which each layout of devices and each processor has its own, has to stay what it is.
So the optimizers are plain gradient descent: Adam would turn a difference of 1e-9 in a gradient
near zero into one of the whole learning rate. And the activations are smooth: before a ReLU a
difference of 1e-9 may turn a sign, and so let a gradient through or not.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import optax
from absl import app
from flax import linen as nn

from configs import dcgan, lesion_cnn, resgan
from dermagan_jax import (
    classifier_config,
    classifier_trainer,
    console,
    gan_config,
    gan_runs,
    gan_trainer,
    hosts,
    launch,
    preemption,
)
from dermagan_jax.errors import DermaganError
from dermagan_jax.event_files import EventFile


def _sgd(rate: float) -> optax.GradientTransformation:
    return optax.sgd(rate)


def _softened(slope: float) -> Callable[..., jax.Array]:
    """The smooth form of a ReLU with that slope below zero."""
    return lambda x, **_: slope * x + (1 - slope) * nn.softplus(x)


def _dcgan() -> Any:
    config = dcgan.get_config("smoke")
    config.model.width, config.model.latent_size, config.batch_size = 4, 8, 4
    config.log_every_steps = 1
    return config


def _resgan() -> Any:
    config = resgan.get_config("smoke")
    config.model.width = config.model.max_width = 8
    config.model.d_width = config.model.d_max_width = 8
    config.batch_size = 16
    config.log_every_steps = 1
    return config


def _classifier() -> Any:
    config = lesion_cnn.get_config("smoke")
    config.batch_size, config.log_every_steps = 8, 1
    return config


CONFIGS = {"dcgan": _dcgan, "resgan": _resgan, "classifier": _classifier}


def _end_after(step: int) -> None:
    """Sends this process SIGTERM when it asks whether one came, after that many steps."""
    asked = preemption.Preemption.asked

    def asked_with_signal(self: preemption.Preemption, done: int) -> signal.Signals | None:
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return asked(self, done)

    preemption.Preemption.asked = asked_with_signal


def _fill_the_disk(step: int) -> None:
    """Lets the system refuse what this process writes of that step."""
    add_scalar = EventFile.add_scalar

    def refused(self: EventFile, at: int, name: str, value: float) -> None:
        if at == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add_scalar(self, at, name, value)

    EventFile.add_scalar = refused


def _lose_the_data(step: int) -> None:
    """Lets this process read the batches of a GAN's first steps and no more."""
    batches = gan_runs.Run.batches

    def cut_off(self: gan_runs.Run, start: int, size: int) -> Iterator[Any]:
        for at, batch in enumerate(batches(self, start, size), start):
            if at == step:
                raise DermaganError("images: cannot be read here; mend the disk")
            yield batch

    gan_runs.Run.batches = cut_off


# What may happen to a process, by the word in which it is told.
EVENTS = {"signal": _end_after, "full disk": _fill_the_disk, "lost data": _lose_the_data}


def _count_traces() -> Counter[str]:
    """Counts from now on how often each jitted function is traced, by its name."""
    traces: Counter[str] = Counter()

    def listen(event: str, _: float, *, fun_name: str = "", **__: Any) -> None:
        if event == "/jax/core/compile/jaxpr_trace_duration":
            traces[fun_name] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    return traces


def main(argv: list[str]) -> None:
    told = json.loads(argv[1])
    traces = _count_traces()
    jax.config.update("jax_num_cpu_devices", told["devices"])
    if told.get("mpi"):
        hosts.meet()
    elif told["processes"] > 1:
        hosts.meet(f"localhost:{told['port']}", told["processes"], told["process"])
    config = CONFIGS[told["kind"]]()
    with config.unlocked():
        config.update(told["config"])
    gan_config.make_optimizers = lambda config: (_sgd(0.01), _sgd(0.01))
    classifier_config.make_optimizer = lambda config: _sgd(0.01)
    nn.relu, nn.leaky_relu = _softened(0.0), _softened(0.2)
    if told["process"] == told.get("struck"):
        EVENTS[told["by"]](told["step"])
    train = classifier_trainer.train if told["kind"] == "classifier" else gan_trainer.train
    train(config, Path(told["workdir"]))
    print(json.dumps(traces))


if __name__ == "__main__":
    app.run(launch.ends_soon(console.reports_errors(main)))
