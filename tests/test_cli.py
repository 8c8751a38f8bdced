"""The command line, called as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dermagan_jax import cli, features, parallel

ROOT = Path(__file__).parents[1]


def test_prepare_prints_the_splits_and_a_second_call_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prepare", "--source", "phantom=12", "--test-per-class", "3", "--workers", "1"]
    words += ["--out", str(tmp_path / "set"), "--cap", "melanoma=10"]
    cli.main(words)
    printed = capsys.readouterr().out
    assert "images (phantom)" in printed
    assert "Phantom data: says nothing about skin." in printed
    report = json.loads((tmp_path / "set" / "data_report.json").read_text())
    assert sum(split["melanoma"] for split in report["counts"].values()) == 10
    stamp = (tmp_path / "set" / "data_report.json").stat().st_mtime_ns
    cli.main(words)
    assert (tmp_path / "set" / "data_report.json").stat().st_mtime_ns == stamp


def test_refused_choices_can_be_changed_in_the_same_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prepare", "--source", "phantom=8", "--workers", "1", "--out", str(tmp_path / "set")]
    with pytest.raises(SystemExit):
        cli.main([*words, "--test-per-class", "8"])
    assert "lower --test-per-class" in capsys.readouterr().err
    cli.main([*words, "--test-per-class", "2"])
    assert (tmp_path / "set" / "data_report.json").is_file()


def test_generate_writes_the_folder(
    tiny_gan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "generated"
    cli.main(["generate", "--gan", str(tiny_gan), "--per-class", "2", "--out", str(out)])
    assert "Wrote 8 images from step 2" in capsys.readouterr().out
    assert len(list(out.rglob("*_0000*.png"))) == 8


def test_evaluate_says_which_checkpoint_to_take(
    tiny_gan: Path,
    phantom_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The networks of 160 pixels are slow where programs are compiled without optimisation.
    monkeypatch.setattr(features, "_LITE0_SIDE", 32)
    out = tmp_path / "out"
    words = ["evaluate", "--gan", str(tiny_gan), "--data", str(phantom_set), "--features", "random"]
    cli.main([*words, "--per-class", "3", "--step", "1", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "step 1" in printed.lower()
    assert "Phantom data: says nothing about skin." in printed
    document = json.loads((out / "evaluation.json").read_text())
    assert document["features"]["name"] == "random"
    assert document["floor"]["overall"]["images"] == 12
    assert f"--out {out}</code>" in (out / "evaluation.html").read_text()


def _study(recipe: str, *fields: str) -> list[str]:
    return ["study", f"--config={ROOT}/configs/{recipe}", "--data=x", "--out=y", *fields]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["prepare", "--out", "x"], "no source is given"),
        (["prepare", "--source", "isic2019=nowhere", "--out", "x"], "nowhere"),
        (["prepare", "--source", "phantom=5", "--out", "x", "--recipe", "bcn500"], "isic2019"),
        (["prepare", "--source", "phantom=5", "--out", "x", "--recipe", "r.json"], "r.json"),
        (["prepare", "--source", "phantom=5", "--out", "x", "--cap", "nevus=3"], "nevus=3"),
        (
            ["prepare", "--source", "phantom=5", "--out", "x", "--test-per-class", "9" * 20],
            "--test-per-class is 99999999999999999999; give a number from 0",
        ),
        (["generate", "--gan", "nowhere", "--out", "x"], "holds no checkpoints"),
        (["evaluate", "--gan", "nowhere", "--data", "x"], "holds no checkpoints"),
        (["prepare", "--source", "phantom=5", "--out", "x", "--workers", "-1"], "--workers is -1"),
        (["prepare", "--source", "phantom=5", "--out", "x", "--seed", "-1"], "--seed is -1"),
        (["demo", "--seed", "-1", "--out", "x"], "--seed is -1; give a number from 0"),
        (["generate", "--gan", "x", "--out", "x", "--seed", "-2"], "--seed is -2"),
        (["evaluate", "--gan", "x", "--data", "x", "--seed", "-2"], "--seed is -2"),
        (["evaluate", "--gan", "x", "--data", "x", "--per-class", "0"], "--per-class is 0"),
        (["generate", "--gan", "nowhere", "--out", __file__], "was not made by `dermagan gen"),
        (["demo", "--seed", "9" * 20, "--out", "x"], "; give a number from 0, below 1e+18"),
        (["demo", "--out", str(ROOT)], ", which is no demo's; name another --out"),
        (_study("lesion_cnn.py"), "no field 'arms', so it is no study's"),
        (_study("study.py", "--config.classifier_seeds=('a',)"), "classifier_seeds is ('a',)"),
        (_study("study.py", "--config.classifier.model.network=vgg16"), "model.side is not there"),
        (_study("study.py", "word"), "'word' is no option"),
    ],
)
def test_bad_input_ends_in_exit_code_2_and_writes_nothing(
    words: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    # JAX has its devices by now.
    monkeypatch.setattr(parallel, "one_device_a_core", lambda _: None)
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert named in message
    assert len(message.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_help_shows_the_whole_way(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    for word in (
        "download",
        "prepare",
        "train_gan.py",
        "evaluate",
        "generate",
        "train_classifier.py",
        "demo",
    ):
        assert word in text


@pytest.mark.parametrize("script", ["train_gan.py", "train_classifier.py"])
def test_scripts_show_their_flags(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / script), "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path).stdout
    for flag in ("--config:", "--workdir:", "--profile:", "--[no]compilation_cache:"):
        assert flag in text


@pytest.mark.parametrize(
    ("script", "word", "said"),
    [
        ("train_gan.py", "--config.data_dir=nowhere", "nowhere: is no prepared set"),
        ("train_classifier.py", "--config.data_dir=nowhere", "nowhere: is no prepared set"),
        ("train_classifier.py", "--config.num_stesp=5", "has no field 'num_stesp'; "),
        ("train_gan.py", "runs/x", "unknown argument 'runs/x'; values are given as --flag=VALUE"),
    ],
)
def test_scripts_end_bad_input_without_a_traceback(
    script: str, word: str, said: str, tmp_path: Path
) -> None:
    recipe = "dcgan" if script == "train_gan.py" else "lesion_cnn"
    command = [sys.executable, str(ROOT / script), f"--config={ROOT}/configs/{recipe}.py:smoke"]
    command += [f"--workdir={tmp_path / 'run'}", word]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert said in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
