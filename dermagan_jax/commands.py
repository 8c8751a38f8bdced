"""What each command of `dermagan` does with its options.

Each imports what it needs: `dermagan --help` should not wait for JAX and TensorFlow.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermagan_jax import console
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES, label_of_folder

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from dermagan_jax import synthesis


def _ready_jax(options: argparse.Namespace) -> None:
    from dermagan_jax import compilation, memory

    memory.keep_freed_memory()
    if not options.no_compilation_cache:
        compilation.keep_programs()


def demo(options: argparse.Namespace) -> None:
    """Runs the whole way on phantoms."""
    from dermagan_jax import demo

    _ready_jax(options)
    demo.run(options.out.expanduser(), seed=options.seed, short=options.short)


def download(options: argparse.Namespace) -> None:
    """Fetches a public set."""
    from dermagan_jax.data.download import download

    download(options.dataset, options.out.expanduser(), base_url=options.base_url)
    print(f"Next: dermagan prepare --source {options.dataset}={options.out} --out DIR")


def evaluate(options: argparse.Namespace) -> None:
    """Measures a GAN and prints the verdict."""
    from dermagan_jax.study import evaluation, evaluation_report

    _ready_jax(options)
    gan = options.gan.expanduser()
    out = gan / "evaluation" if options.out is None else options.out.expanduser()
    document = evaluation.evaluate(
        gan,
        options.data.expanduser(),
        out,
        features=options.features,
        per_class=options.per_class,
        step=options.step,
        split=options.split,
        seed=options.seed,
        commands=[options.command_line],
    )
    print("\n".join(evaluation_report.verdict(document)))
    print(f"Report: {out}/evaluation.html\n{console.notice(document['kind'])}")


def study(options: argparse.Namespace) -> None:
    """Runs a study and prints the verdict."""
    from dermagan_jax import parallel
    from dermagan_jax.study import checks, study_report, verdict

    config = study_config(options.config, options.fields)
    checks.require_study(config)
    config.data_dir = str(options.data.expanduser())
    parallel.one_device_a_core(len(config.classifier_seeds))
    _ready_jax(options)
    out = options.out.expanduser()
    document = verdict.run(config, out, commands=[options.command_line])
    print("\n".join(study_report.verdict(document)))
    print(f"Report: {out}/{study_report.REPORT}\n{study_report.notice(document)}")


def study_config(text: str, fields: Sequence[str]) -> ConfigDict:
    """Reads a recipe.

    Args:
      text: FILE or FILE:VARIANT.
      fields: changes to it, as `--config.FIELD=VALUE`.

    Raises:
      DermaganError: there is no such file, variant or field, a value is of another type, a word is
        no field, or the recipe itself fails.
    """
    from absl import flags
    from ml_collections import config_flags

    from dermagan_jax import recipe_files

    words = ["dermagan", f"--config={text}", *fields]
    values = flags.FlagValues()
    with recipe_files.errors_named(words):
        holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
        _, *others = values(words)
        config = holder.value
    if others:
        raise DermaganError(
            f"{others[0]!r} is no option; fields of the recipe are given as --config.FIELD=VALUE"
        )
    recipe_files.expand_home(config)
    return config


def generate(options: argparse.Namespace) -> None:
    """Writes generated images."""
    from dermagan_jax import generated_images, images, latent_walks, synthesis

    _ready_jax(options)
    out = options.out.expanduser()
    generated_images.require_free(out)
    trained = synthesis.load_gan(options.gan.expanduser(), step=options.step)
    generated = synthesis.generate(
        trained,
        per_class=options.per_class,
        seed=options.seed,
        truncation=options.truncation,
        filters=_filters(options, trained),
    )
    generated_images.write_folder(generated, out)
    for name, draw in (
        ("interpolation", latent_walks.interpolation_grid),
        ("morph", latent_walks.morph_grid),
    ):
        picture = draw(trained, options.seed)
        if picture is not None:
            images.write_png(out / f"{name}.png", picture)
    print(f"Wrote {len(generated.label)} images from step {trained.step} to {options.out}")
    _show_passed(generated.provenance)
    print(console.notice(generated.provenance["kind"]))


def _filters(options: argparse.Namespace, trained: synthesis.TrainedGan) -> list[synthesis.Filter]:
    from dermagan_jax import choosing, features, gan_config

    sha256 = trained.train_split_sha256
    filters: list[synthesis.Filter] = []
    if options.realistic is not None:
        workdir = options.gan.expanduser()
        filters.append(choosing.Realistic(workdir, trained.step, share=options.realistic))
    if options.agreed is not None:
        workdir = options.agreed.expanduser()
        filters.append(choosing.Agreed(workdir, train_split_sha256=sha256))
    if options.no_copies is not None:
        filters.append(
            choosing.NoCopies(
                options.no_copies.expanduser(),
                features=features.DEFAULT,
                train_split_sha256=sha256,
                turned=gan_config.turns_reals(trained.config),
            )
        )
    return filters


def _show_passed(provenance: Mapping[str, Any]) -> None:
    """Prints how many candidates each filter let pass."""
    names = [each["filter"].replace("_", " ") for each in provenance["filters"]]
    if names:
        rows = [
            [name, f"{passed['candidates']:,}", *(f"{number:,}" for number in passed["after"])]
            for name, passed in provenance["passed"].items()
        ]
        print(console.table(["class", "candidates", *(f"after {name}" for name in names)], rows))


def predict(options: argparse.Namespace) -> None:
    """Prints what a classifier says of image files."""
    from dermagan_jax import predicting, trained_classifier

    if options.explain is not None:
        predicting.claim_folder(options.explain.expanduser())
    _ready_jax(options)
    trained = trained_classifier.load_classifier(options.model.expanduser())
    found = predicting.predict(trained, options.images)
    if options.explain is not None:
        predicting.write_explanations(trained, found, options.explain.expanduser())
    if options.json:
        print("\n".join(json.dumps(each.as_json()) for each in found))
        return
    rows = [
        [str(each.path), CLASSES[each.label].replace("_", " ")]
        + [console.percent(share) for share in each.probabilities]
        for each in found
    ]
    names = [name.replace("_", " ") for name in CLASSES]
    print(console.table(["image", "most likely", *names], rows))
    if options.explain is not None:
        print(f"Where it looks: {options.explain}")
    print(console.RESEARCH_USE)


def prepare(options: argparse.Namespace) -> None:
    """Prepares a set and prints what became of the images."""
    from dermagan_jax.data import beam
    from dermagan_jax.data.prepare import prepare

    cluster = None
    if options.runner:
        cluster = beam.options(options.runner, options.runner_option, num_workers=options.workers)
    names = ("test_per_class", "train_per_class", "validation_fraction")
    changes = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.cap:
        changes["caps"] = dict(map(_parse_cap, options.cap))
    out = options.out.expanduser()
    report = prepare(
        out,
        source_texts=options.source,
        recipe_name=options.recipe,
        plan_changes=changes,
        image_size=options.image_size,
        seed=options.seed,
        keep=options.keep,
        num_workers=options.workers,
        cluster=cluster,
        others=options.others,
        overwrite=options.overwrite,
    )
    _show_report(report, out)


def _parse_cap(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    label = label_of_folder(name)
    if label is None or not number.isdecimal():
        raise DermaganError(f"--cap {text}: give CLASS=N, such as melanoma=500")
    return CLASSES[label], int(number)


def _show_report(report: Mapping[str, Any], out: Path) -> None:
    splits = ("train", "validation", "test")
    rows = [[name, *(f"{report['counts'][split][name]:,}" for split in splits)] for name in CLASSES]
    print(console.table([f"images ({report['kind']})", *splits], rows))
    if others := report.get("others"):  # Sets from before --others do not say.
        print(f"Lesions of other diagnoses, for a GAN's pre-training: {others:,}.")
    removed = ", ".join(f"{number} {reason}" for reason, number in report["removed"].items())
    print(f"Set aside: {removed or 'none'}; see {out}/quarantine.csv and quarantine.png.")
    for warning in report["warnings"]:
        print(f"warning: {warning}")
    print(f"Report and figures: {out}/data_report.json, {out}/figures")
    print(console.notice(report["kind"]))
