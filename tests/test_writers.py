from __future__ import annotations

import errno
import io
import json
import struct
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from dermagan_jax import writers
from dermagan_jax.errors import DermaganError


def read_events(workdir: Path) -> list[event_pb2.Event]:
    """Reads TensorBoard's files by their format: length, check sum, event, check sum."""
    events = []
    for path in sorted((workdir / writers.TENSORBOARD_FOLDER).iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            events.append(event_pb2.Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return events


def run(workdir: Path, *, resume_step: int, last_step: int) -> None:
    """Stands for a training run: a row a step, and a validation row on every second one."""
    with writers.MetricWriter(workdir, resume_step=resume_step) as writer:
        for step in range(resume_step + 1, last_step + 1):
            writer.write(step, {"train/loss": 1 / step})
            if step % 2 == 0:
                writer.write(step, {"validation/loss": 2 / step, "validation/auc": float("nan")})


def test_a_row_is_one_line_of_json_with_sorted_keys(tmp_path):
    with writers.MetricWriter(tmp_path / "new" / "run", resume_step=0) as writer:
        writer.write(3, {"train/g_loss": jnp.float32(0.5), "alarm": np.float64(2)})
        # Read before close: what a kill -9 would leave.
        text = (tmp_path / "new" / "run" / "metrics.jsonl").read_text()
    assert text == '{"alarm": 2.0, "step": 3, "train/g_loss": 0.5}\n'


def test_non_finite_values_are_null_and_named(tmp_path):
    with writers.MetricWriter(tmp_path, resume_step=0) as writer:
        writer.write(1, {"b": float("inf"), "a": jnp.nan, "c": 1.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"a": null, "b": null, "c": 1.0, "non_finite": ["a", "b"], "step": 1}\n'


def test_a_run_killed_at_any_byte_and_resumed_writes_the_same_file(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "EventFile", lambda *_, **__: _NoTensorBoard())
    run(tmp_path, resume_step=0, last_step=6)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 9
    checkpoint = len(b"".join(lines[:6]))  # steps 1 to 4, of which 2 and 4 have two rows
    assert json.loads(lines[5])["step"] == 4
    assert json.loads(lines[6])["step"] == 5
    for killed_at in range(checkpoint, len(whole) + 1):
        path.write_bytes(whole[:killed_at])
        run(tmp_path, resume_step=4, last_step=6)
        assert path.read_bytes() == whole
        assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


class _NoTensorBoard:
    def add_scalar(self, *_, **__) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def test_the_resumed_step_keeps_its_row_and_gains_a_missing_one(tmp_path):
    with writers.MetricWriter(tmp_path, resume_step=0) as writer:
        writer.write(2, {"loss": 1.0})
    with writers.MetricWriter(tmp_path, resume_step=2) as writer:
        writer.write(2, {"loss": 1.0})
        writer.write(2, {"test/loss": 3.0})
        writer.write(3, {"loss": 4.0})
    rows = writers.read_metrics(tmp_path / "metrics.jsonl")
    assert rows == [
        {"step": 2, "loss": 1.0},
        {"step": 2, "test/loss": 3.0},
        {"step": 3, "loss": 4.0},
    ]


def test_steps_never_go_back_nor_repeat(tmp_path):
    with writers.MetricWriter(tmp_path, resume_step=5) as writer:
        with pytest.raises(ValueError, match="step 4 comes after step 5"):
            writer.write(4, {"loss": 1.0})
        writer.write(6, {"loss": 1.0})
        with pytest.raises(ValueError, match=r"step 6 has a row of \['loss'\]"):
            writer.write(6, {"loss": 1.0})
        with pytest.raises(ValueError, match="'step' is reserved"):
            writer.write(7, {"step": 1.0})
    assert len(writers.read_metrics(tmp_path / "metrics.jsonl")) == 1


@pytest.mark.parametrize(
    "damage",
    [
        *(b"{oops\n", b'{"a":' * 10_000 + b"\n", b'{"loss": 1.0}\n', b"[1]\n", b"\xff\n"),
        b'{"step": 1, "loss": "low"}\n',
    ],
)
def test_a_damaged_line_is_named_and_the_file_left_alone(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damage + b'{"step": 2}\n')
    before = path.read_bytes()
    with pytest.raises(DermaganError, match=r"metrics\.jsonl: line 2 is damaged"):
        writers.MetricWriter(tmp_path, resume_step=1)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DermaganError, match=r"file/run/metrics\.jsonl: cannot be written"):
        writers.MetricWriter(tmp_path / "file" / "run", resume_step=0)


def test_tensorboard_gets_values_speeds_and_images_and_purges_later_steps(tmp_path):
    image = np.zeros((4, 6, 3), np.uint8)
    with writers.MetricWriter(tmp_path, resume_step=7) as writer:
        writer.write(8, {"train/loss": 0.25})
        writer.write_timing(8, {"train/images_per_sec": 100.0})
        writer.write_images(8, {"samples": image})
        with pytest.raises(ValueError, match=r"grey: uint8\(4, 6\) is not"):
            writer.write_images(8, {"grey": image[..., 0]})
    events = read_events(tmp_path)
    starts = [e.step for e in events if e.HasField("session_log")]
    values = {v.tag: v for e in events if e.step == 8 for v in e.summary.value}
    assert starts == [8]
    assert values["train/loss"].simple_value == 0.25
    assert values["train/images_per_sec"].simple_value == 100.0
    assert (values["samples"].image.height, values["samples"].image.width) == (4, 6)
    assert "images_per_sec" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_disk_that_fills_up_is_an_error_and_no_wait(tmp_path, monkeypatch):
    def full(self, event):
        raise OSError(errno.ENOSPC, "No space left on device")

    with writers.MetricWriter(tmp_path, resume_step=0) as writer:
        writer.write(1, {"loss": 1.0})
        monkeypatch.setattr(EventsWriter, "write_event", full)
        for step in range(2, 40):
            with pytest.raises(DermaganError, match=r"tensorboard: cannot be written \(No space"):
                writer.write(step, {"loss": 1.0})
    assert len(writers.read_metrics(tmp_path / "metrics.jsonl")) == 39


@pytest.mark.parametrize(
    ("secs", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (190, "3m10s"),
        (3599.7, "1h00m"),
        (7500, "2h05m"),
        (97_200, "1d03h"),
    ],
)
def test_format_duration(secs, text):
    assert writers.format_duration(secs) == text


def test_format_progress():
    line = writers.format_progress(
        1199,
        6400,
        label="gan",
        steps_per_sec=13.0,
        images_per_step=64,
        metrics={"train/d_loss": 0.41237, "train/g_loss": 2},
    )
    # 5201 steps at 13 a second are 400 seconds.
    assert line == "gan  1199/6400  18%  832 images/s  6m40s left  d_loss 0.4124  g_loss 2"
    done = writers.format_progress(
        10, 10, label="cnn", steps_per_sec=2.0, images_per_step=5, metrics={}
    )
    assert done == "cnn  10/10  100%  10 images/s"


class _Clock:
    secs = 0.0

    def __call__(self) -> float:
        return self.secs


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make_progress(stream: io.StringIO, **changes) -> tuple[writers.Progress, _Clock]:
    clock = _Clock()
    arguments = {"initial_step": 100, "images_per_step": 8, "label": "gan", **changes}
    return writers.Progress(200, stream=stream, clock=clock, **arguments), clock


def test_a_log_gets_a_line_every_ten_seconds_and_speed_leaves_compilation_out():
    stream = io.StringIO()
    progress, clock = make_progress(stream)
    assert stream.getvalue() == "gan  100/200  50%\n"
    clock.secs = 60.0  # the first update compiles for a minute
    progress.update(101, {"loss": 1})
    assert progress.images_per_sec is None
    for step in range(102, 151):
        clock.secs += 0.5
        progress.update(step, {"loss": step})
    assert progress.images_per_sec == pytest.approx(16)
    progress.close()
    # 20 steps are 10 seconds; then 79 and 59 steps at 2 a second are left; close shows step 150.
    assert stream.getvalue().splitlines()[1:] == [
        "gan  101/200  50%  loss 1",
        "gan  121/200  60%  16 images/s  40s left  loss 121",
        "gan  141/200  70%  16 images/s  30s left  loss 141",
        "gan  150/200  75%  16 images/s  25s left  loss 150",
    ]


def test_a_terminal_line_is_rewritten_and_never_wraps(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    stream = _Terminal()
    with make_progress(stream)[0] as progress:
        progress._clock.secs = 1.0
        progress.update(101, {"a_rather_long_metric_name": 1.0})
        progress.close()  # and once more at the end of the block
    first, second = stream.getvalue().removeprefix("\r").split("\r")
    assert first == "gan  100/200  50%\x1b[K"
    assert second == "gan  101/200  50%  a_rather_l\x1b[K\n"


def test_values_are_fetched_only_for_a_line_that_is_shown():
    class OnDevice:
        num_fetches = 0

        def __float__(self) -> float:
            self.num_fetches += 1
            return 1.0

    value = OnDevice()
    progress, clock = make_progress(io.StringIO())
    for step in range(101, 200):
        clock.secs += 0.25
        progress.update(step, {"loss": value})
    assert value.num_fetches == 2  # at 10 and 20 seconds
