"""Work on chunks by Apache Beam, on many machines: an extra of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dermagan_jax.errors import DermaganError

Cluster = Any
"""Beam's `PipelineOptions`: how and where a pipeline is run."""

RUNNERS = {
    "direct": "DirectRunner",
    "dataflow": "DataflowRunner",
    "spark": "SparkRunner",
    "flink": "FlinkRunner",
}
"""Beam's runners by the names that `dermagan prepare --runner` takes."""


def options(runner: str, more: Sequence[str] = (), *, num_workers: int | None) -> Cluster:
    """Returns what a pipeline is run with.

    Args:
      runner: a key of `RUNNERS`.
      more: the runner's own options, as Beam's command lines take them: `--project=NAME`.
      num_workers: processes of the direct runner; None for one a core.

    Raises:
      DermaganError: Apache Beam is not installed, or does not know an option.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise DermaganError(
            "--runner takes Apache Beam, which is not installed: pip install 'dermagan-jax[beam]'"
        ) from error
    if runner not in RUNNERS:
        raise DermaganError(f"--runner {runner}: unknown; give one of {', '.join(RUNNERS)}")
    given = [f"--runner={RUNNERS[runner]}", *more]
    if runner == "direct":
        # 0 is one a core.
        given += [
            "--direct_running_mode=multi_processing",
            f"--direct_num_workers={num_workers or 0}",
        ]
    return PipelineOptions(given)


def run_all(work: Callable[[Any], object], parts: Sequence[Any], how: Cluster) -> None:
    """Does a piece of work for each part, wherever the runner puts it.

    Args:
      work: a function that can be sent elsewhere; what it leaves behind are files.
      parts: what it takes.
      how: from `options`.
    """
    import apache_beam

    with apache_beam.Pipeline(options=how) as pipeline:
        # Without the shuffle all parts would stay with the worker that lists them.
        _ = (
            pipeline
            | "list" >> apache_beam.Create(list(parts))
            | "deal out" >> apache_beam.Reshuffle()
            | "work" >> apache_beam.Map(work)
        )


def flat_map(work: Callable[[Any], Iterable[Any]], parts: Sequence[Any]) -> Any:
    """Returns the step of a pipeline that yields what `work` yields for each part."""
    import apache_beam

    return apache_beam.Create(list(parts)) | apache_beam.Reshuffle() | apache_beam.FlatMap(work)
