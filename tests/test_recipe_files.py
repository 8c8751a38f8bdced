"""Reading a recipe: whatever is wrong with it is said in one line, with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from dermagan_jax import commands, recipe_files
from dermagan_jax.errors import DermaganError


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--config=a.py:b"], "a.py:b"),
        (["-config=a.py"], "a.py"),
        (["--workdir=x", "--config", "a.py"], "a.py"),
        (["--config.seed=1", "--configure=2"], ""),
        (["--config"], ""),
    ],
)
def test_the_recipe_of_a_command_line_is_found(words: list[str], text: str) -> None:
    assert recipe_files.named(["train_gan.py", *words]) == text


def test_a_home_folder_is_found_wherever_a_recipe_names_one() -> None:
    fields = {"gan.data_dir": "~/set", "classifier.real.extra_dir": "gs://set", "beside": ("~/a",)}
    words = [f"--config.{name}={value}" for name, value in fields.items()]
    config = commands.study_config("configs/study.py", words)
    assert config.gan.data_dir == str(Path.home() / "set")
    assert config.classifier.real.extra_dir == "gs://set"
    assert config.beside == (str(Path.home() / "a"),)


@pytest.mark.parametrize(
    ("text", "fields", "message"),
    [
        ("configs/nothing.py", [], "^configs/nothing.py: is no file; give a recipe"),
        (
            "configs/study.py:large",
            [],
            r"^--config configs/study\.py:large: unknown variant 'large'; known: default, paper, ",
        ),
        ("configs/study.py", ["--config.arm=1"], "has no field 'arm'; configs/study.py lists its"),
        ("configs/study.py", ["--config.gan.arm=1"], "has no field 'arm'; configs/study.py lists"),
        ("configs/study.py", ["--config.arm.s=1"], "has no field 'arm'; configs/study.py lists"),
        (
            "configs/study.py",
            ["--config.margin=wide"],
            "^flag --config.margin=wide: could not convert string to float: 'wide'; --help lists",
        ),
        ("configs/study.py", ["--margin=1"], "^Unknown command line flag 'margin'; --help lists"),
        ("configs/study.py", ["word"], r"'word' is no option; .* given as --config\.FIELD=VALUE"),
        ("configs/study.py", ["word", "--config.margin=0.1"], "'word' is no option"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_named(text: str, fields: list[str], message: str) -> None:
    with pytest.raises(DermaganError, match=message) as caught:
        commands.study_config(text, fields)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(:", "SyntaxError"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("def get_config():\n    return undefined", "NameError"),
        ("def get_config():\n    return {}['size']", "KeyError"),
    ],
)
def test_a_recipe_that_fails_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.py"
    path.write_text(text)
    with pytest.raises(DermaganError, match=rf"--config .*recipe\.py: {said}: .*mend the recipe"):
        commands.study_config(str(path), [])
