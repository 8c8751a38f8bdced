"""The layering of docs/architecture.md, read from the imports; and rules of size and naming."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "dermagan_jax"

# From the top down: a module imports from its own row or from a lower one. A package stands for all
# the modules in it, unless one of them is named by itself.
LAYERS = (
    ("train_gan", "train_classifier", "cli", "commands", "__main__", "demo"),
    ("study",),
    (
        *("gan_trainer", "gan_runs", "rollbacks", "pretraining", "watching"),
        *("classifier_trainer", "classifier_runs", "launch", "recipe_files"),
    ),
    (
        *("data", "checkpoints", "compilation", "console", "features", "memory", "synthesis"),
        *(
            "choosing",
            "generated_images",
            "event_files",
            "explaining",
            "latent_walks",
            "predicting",
            "remote",
            "trained_classifier",
            "training_set",
            "workdir",
            "writers",
        ),
    ),
    ("gan", "gan_config", "classifier", "classifier_config"),
    (
        *("state", "rules", "parallel", "stepping", "preemption", "profiling", "seeds", "hosts"),
        "digests",
    ),
    (
        "nets",
        "losses",
        "augmentation",
        "mixing",
        "diffaugment",
        "ada",
        "metrics",
        "figures",
        "alarms",
    ),
    ("images", "files", "lesions", "ranges", "errors", ""),
)

# The modules of the package that a module may import, where the row alone would allow more.
ONLY_FROM = {"data": ("data", "figures", "images", "files", "lesions", "errors", "")}

# Siblings that meet nowhere but in `synthesis`.
STRANGERS = (
    ({"gan", "gan_trainer"}, {"classifier", "classifier_runs", "classifier_trainer"}),
    ({"classifier", "classifier_runs", "classifier_trainer"}, {"gan", "gan_trainer"}),
)

# Libraries that only some modules may import; the rest of the third-party libraries are free.
ONLY_IN = {
    "tensorflow": ("data",),
    "tensorflow_datasets": ("data",),
    "orbax": ("checkpoints",),
    "argparse": ("cli", "commands", "__main__"),
    "ml_collections": (*LAYERS[0], *LAYERS[1], *LAYERS[2]),
    "pickle": (),
}

# Where a distribution's import name isn't its own name with `_` for `-`.
IMPORT_NAMES = {
    "absl-py": "absl",
    "orbax-checkpoint": "orbax",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "tensorflow-cpu": "tensorflow",
}

Sources = Mapping[str, str]


def read_sources() -> dict[str, str]:
    """The text of each module, by its name: `data.sources`, `train_gan`, "" (the package)."""
    sources = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    for path in ROOT.glob("train_*.py"):
        sources[path.stem] = path.read_text()
    return sources


def imported_names(source: str) -> Iterator[str]:
    """Every absolute name that a module imports, at any depth: `a.b` for `from a import b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(source: str, modules: Sources) -> set[str]:
    """The project's modules that a module imports."""
    found = set()
    for name in imported_names(source):
        if name != PACKAGE and not name.startswith(f"{PACKAGE}."):
            continue
        name = name.removeprefix(PACKAGE).removeprefix(".")
        while name not in modules:  # a function or a class: the module that holds it
            name = name.rpartition(".")[0]
        found.add(name)
    return found


def family(module: str) -> str:
    return module.partition(".")[0]


def row(module: str) -> int:
    """How far down a module is; 0 is the top."""
    for depth, names in enumerate(LAYERS):
        if family(module) in names:
            return depth
    raise AssertionError(f"{module} has no layer: give it one in LAYERS and docs/architecture.md")


def violations(sources: Sources) -> list[str]:
    """What is wrong with the imports of these modules, one line each."""
    found = []
    graph = {module: own_imports(source, sources) for module, source in sources.items()}
    for module, imports in graph.items():
        for other in sorted(imports):
            if row(other) < row(module):
                found.append(f"{module} imports {other}, which is above it")
            elif family(other) not in ONLY_FROM.get(family(module), (family(other),)):
                found.append(f"{module} imports {other}, which it may not")
            if any(family(module) in a and family(other) in b for a, b in STRANGERS):
                found.append(f"{module} imports {other}: they meet in synthesis only")
        for library in sorted({name.partition(".")[0] for name in imported_names(sources[module])}):
            if family(module) not in ONLY_IN.get(library, (family(module),)):
                found.append(f"{module} imports {library}")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append(f"cycle: {' -> '.join(error.args[1])}")
    return found


def test_imports_go_downward():
    assert violations(read_sources()) == []


@pytest.mark.parametrize(
    ("module", "line", "expected"),
    [
        ("images", "from dermagan_jax.nets import dcgan", "images imports nets.dcgan, which is"),
        ("gan", "from dermagan_jax.gan_trainer import train", "gan imports gan_trainer, which is"),
        ("study.report", "import dermagan_jax.cli", "study.report imports cli, which is"),
        ("data.sources", "from dermagan_jax import gan", "data.sources imports gan, which it"),
        ("gan", "from dermagan_jax import classifier", "gan imports classifier: they meet"),
        ("classifier_trainer", "from dermagan_jax.gan import sample", "classifier_trainer imports"),
        ("images", "def f():\n    import tensorflow as tf", "images imports tensorflow"),
        ("synthesis", "import orbax.checkpoint as ocp", "synthesis imports orbax"),
        ("gan", "from ml_collections import ConfigDict", "gan imports ml_collections"),
        ("data.sources", "import argparse", "data.sources imports argparse"),
        ("writers", "import pickle", "writers imports pickle"),
        ("errors", "from dermagan_jax import images", "cycle: "),
    ],
)
def test_a_planted_violation_is_found(module: str, line: str, expected: str):
    modules = (
        *("", "cli", "study.report", "gan_trainer", "classifier_trainer", "data.sources", "gan"),
        *("synthesis", "writers", "classifier", "nets.dcgan", "errors"),
    )
    sources = dict.fromkeys(modules, "") | {"images": "from dermagan_jax.errors import ImageError"}
    assert violations(sources) == []
    found = violations(sources | {module: f"{sources[module]}\n{line}"})
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_a_module_without_a_layer_is_found():
    with pytest.raises(AssertionError, match="newcomer has no layer"):
        violations({"newcomer": "from dermagan_jax import images", "images": "", "": ""})


def test_recipes_import_no_code_of_the_project():
    for path in (ROOT / "configs").glob("*.py"):
        names = {name.partition(".")[0] for name in imported_names(path.read_text())}
        assert PACKAGE not in names, path.name


def test_every_library_imported_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["beam"]]
    names = {re.match(r"[\w-]+", line)[0] for line in lines}
    declared = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}
    for module, source in read_sources().items():
        imported = {name.partition(".")[0] for name in imported_names(source)}
        undeclared = imported - declared - sys.stdlib_module_names - {PACKAGE, "configs"}
        # jaxlib comes with jax, always of the matching version.
        assert undeclared <= {"jaxlib", "__future__"}, f"{module} imports {undeclared}"


def python_files() -> list[Path]:
    folders = (ROOT / PACKAGE, ROOT / "configs", ROOT / "tests", ROOT / "benchmarks")
    return [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]


def test_no_module_is_a_drawer_for_odds_and_ends():
    drawers = {"util", "utils", "helper", "helpers", "common", "misc", "tools"}
    assert [path for path in python_files() if path.stem in drawers] == []


@pytest.mark.parametrize("name", ["train_gan.py", "train_classifier.py"])
def test_a_script_is_flags_and_one_call(name: str):
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"{name} is not there yet")
    assert len(path.read_text().splitlines()) <= 70


def test_files_and_functions_stay_short():
    long = []
    for path in python_files():
        text = path.read_text()
        if len(text.splitlines()) > 400:
            long.append(f"{path.name}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                long.append(f"{path.name}: {node.name} has {node.end_lineno - node.lineno + 1}")
    assert long == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_the_make_targets_that_documents_name_exist(document: str):
    path = ROOT / document
    if not path.exists():
        pytest.skip(f"{document} is not there yet")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    # In code only, so that "make sure" in a sentence is no command.
    code = re.findall(r"```.*?```|`[^`\n]+`", path.read_text(), re.DOTALL)
    named = set(re.findall(r"\bmake (?:[A-Z_]+=\S+ )*([a-z]+)", "\n".join(code)))
    assert named, f"{document} names no make target"
    assert named <= targets


def test_the_console_script_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, function = project["scripts"]["dermagan"].split(":")
    path = ROOT / f"{module.replace('.', '/')}.py"
    if not path.exists():
        pytest.skip("the command line is not there yet")
    names = [node.name for node in ast.parse(path.read_text()).body if hasattr(node, "name")]
    assert function in names
