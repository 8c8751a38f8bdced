"""The command line of `dermagan`: everything but the two training scripts."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import dermagan_jax
from dermagan_jax import commands, console, ranges
from dermagan_jax.errors import DermaganError

_PROLOGUE = """\
Train a GAN on skin-lesion images, generate labelled images, and see whether they help a classifier.

  dermagan demo                                   the whole way on made-up images, in minutes
  dermagan download isic2019 --out raw            or use files that you have
  dermagan prepare --source isic2019=raw --out data
  python train_gan.py --config=configs/dcgan.py:paper --workdir=runs/gan --config.data_dir=data
  dermagan evaluate --gan runs/gan --data data    near to real images, and no copies of them?
  dermagan generate --gan runs/gan --per-class 100 --out generated
  python train_classifier.py --config=configs/lesion_cnn.py:paper --workdir=runs/cnn \\
      --config.data_dir=data --config.synthetic.gan_workdir=runs/gan \\
      --config.synthetic.per_class=100
"""

_PREPARE_HELP = """\
Reads raw images, sets aside what is damaged, blurred or there twice, splits by lesion, resizes once
and writes a data set that TensorFlow Datasets reads.

  dermagan prepare --recipe bcn500 --source isic2019=raw --out data/bcn500
  dermagan prepare --source folder=mine --test-per-class 50 --out data/mine
  dermagan prepare --source phantom=300 --out data/phantom

The folder gets data_report.json, splits.csv, quarantine.csv and figures. Nothing in the sources is
changed. A second run of the same command goes on where a first one was stopped.
"""

_STUDY_HELP = """\
Trains GANs, generates, and trains classifiers with and without the generated images, several seeds
each; then says whether they help, harm, or show no evidence of either, with 95% intervals.

  dermagan study --config configs/study.py --data data --out runs/study
  dermagan study --config configs/study.py --data data --out runs/study \\
      --config.gan_seeds="(0, 1)" --config.classifier.num_steps=1000

Any field of the recipe can be set as --config.FIELD=VALUE. Run again after a break, it goes on;
started twice on one folder, two processes share the work. Writes results.json, results.csv and
report.html. Hours on 2 cores: a GAN of bcn500 takes half an hour, each classifier six minutes.
"""


_EVALUATE_HELP = """\
Compares generated images with held-out lesions, always beside as many real images (the floor), and
looks for copies of training images. Measures every kept checkpoint and says which to take.

  dermagan evaluate --gan runs/gan --data data
  dermagan evaluate --gan runs/gan --data data --step 6400 --split test    once, at the very end

Writes evaluation.json, evaluation.html and figures. A minute for each checkpoint on 2 cores.
"""


_GENERATE_HELP = """\
Writes PNG images in class folders, with manifest.csv, generation.json, grid.png and the way between
two images of a class (interpolation.png) and from class to class (morph.png). The same checkpoint
and choices give the same bytes.

  dermagan generate --gan runs/gan --per-class 100 --out generated
  dermagan generate --gan runs/gan --per-class 100 --no-copies data --out generated

Filters look at training lesions only; how many images each lets pass is shown and recorded.
"""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' line breaks, and widens the column of the options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; exits with 2 on bad input.

    Args:
      arguments: the words after `dermagan`, or None for the process's own.
    """
    parser = _parser()
    options, fields = parser.parse_known_args(arguments)
    if fields and not hasattr(options, "config"):
        parser.error(f"unrecognized arguments: {' '.join(fields)}")
    options.fields = fields
    words = sys.argv[1:] if arguments is None else arguments
    options.command_line = shlex.join(["dermagan", *words])
    console.reports_errors(_run)(options)


# What an option may be, whichever command has it.
_RANGES = {
    "seed": ranges.SEED,
    **dict.fromkeys(("workers", "per_class"), ranges.FROM_1),
    "step": ranges.FROM_0,
    **dict.fromkeys(("test_per_class", "train_per_class"), ranges.Range(0, 1e9)),
}


def _run(options: argparse.Namespace) -> None:
    for name, allowed in _RANGES.items():
        number = getattr(options, name, None)
        if number is not None and number not in allowed:
            raise DermaganError(f"--{name.replace('_', '-')} is {number}; give {allowed}")
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "dermagan", description=_PROLOGUE, epilog=console.RESEARCH_USE, formatter_class=_Formatter
    )
    parser.add_argument("--version", action="version", version=dermagan_jax.__version__)
    parser.add_argument(
        "--no-compilation-cache",
        action="store_true",
        help="compile anew, and keep no compiled programs in your cache folder",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        _add_demo,
        _add_download,
        _add_prepare,
        _add_evaluate,
        _add_generate,
        _add_study,
        _add_predict,
    ):
        add(subparsers)
    return parser


def _add_demo(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="the whole way on made-up images, to a report",
        description="Prepares phantoms, trains a small GAN, generates, trains the paper's CNN "
        "without and with the generated images, and writes a report. Minutes on 2 cores.",
        formatter_class=_Formatter,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="folder to write (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="fewer steps: only to see it run")
    parser.set_defaults(run=commands.demo)


def _add_download(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "download",
        help="fetch a public ISIC challenge set",
        description="Fetches a training set of the ISIC challenge, after showing its licence "
        "(CC BY-NC 4.0: research use, with attribution). Run again after a break, it goes on; "
        "checksums are recorded and compared.",
        formatter_class=_Formatter,
    )
    parser.add_argument("dataset", choices=("isic2018", "isic2019"))
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--base-url", help="a mirror that holds 2018/FILE and 2019/FILE")
    parser.set_defaults(run=commands.download)


def _add_prepare(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "prepare",
        help="turn raw images into a data set with splits by lesion",
        description=_PREPARE_HELP,
        formatter_class=_Formatter,
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="KIND=DIR",
        help="ham10000=DIR, isic2018=DIR, isic2019=DIR, folder=DIR (of class folders) or "
        "phantom=IMAGES_A_CLASS; may be given several times",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the prepared set")
    parser.add_argument(
        "--recipe",
        help="bcn500, ham4, isic4, paper_mix, "
        "paper_mix_by_lesion, or a JSON file of your own choices",
    )
    parser.add_argument("--image-size", type=int, default=64, choices=(32, 64, 128))
    parser.add_argument("--seed", type=int, default=0, help="of the splits (default: %(default)s)")
    _add_split_options(parser)
    parser.add_argument("--keep", type=Path, help="file of image ids to bring back from quarantine")
    parser.add_argument(
        "--others",
        action="store_true",
        help="keep lesions of other diagnoses (nevi …) and hospitals too, for a GAN to look at "
        "before it learns the classes: see others_kimg in configs/resgan.py",
    )
    parser.add_argument(
        "--workers", type=int, help="decoding processes (default: one for each core)"
    )
    parser.add_argument(
        "--runner",
        help="decode and write by Apache Beam, for archives of hundreds of thousands of images: "
        "direct, dataflow, spark or flink (needs pip install 'dermagan-jax[beam]')",
    )
    parser.add_argument(
        "--runner-option",
        action="append",
        default=[],
        metavar="--NAME=VALUE",
        help="the runner's own, written --runner-option=--project=NAME; may be given several times",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a set made otherwise")
    parser.set_defaults(run=commands.prepare)


def _add_evaluate(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="measure how near a GAN comes to real images, and whether it copies them",
        description=_EVALUATE_HELP,
        formatter_class=_Formatter,
    )
    parser.add_argument("--gan", type=Path, required=True, help="workdir of train_gan.py")
    parser.add_argument(
        "--data", type=Path, required=True, help="the prepared set that the GAN was trained on"
    )
    parser.add_argument(
        "--features",
        default="efficientnet_lite0",
        help="efficientnet_lite0 (ImageNet; the default), inception_v3=KERAS_H5_FILE, "
        "in_domain=CLASSIFIER_WORKDIR or random",
    )
    parser.add_argument(
        "--per-class", type=int, help="images of each class (default: as many as training images)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--step", type=int, help="the checkpoint to measure (default: all kept)")
    parser.add_argument(
        "--split",
        choices=("validation", "test"),
        default="validation",
        help="the held-out lesions; test is to be read once (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, help="folder to write (default: GAN/evaluation)")
    parser.set_defaults(run=commands.evaluate)


def _add_generate(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="make labelled images with a trained GAN",
        description=_GENERATE_HELP,
        formatter_class=_Formatter,
    )
    parser.add_argument("--gan", type=Path, required=True, help="workdir of train_gan.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the images")
    parser.add_argument("--per-class", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--step", type=int, help="checkpoint to use (default: the best where known, or the latest)"
    )
    group = parser.add_argument_group("choosing", "Which images to keep; in the order given here.")
    group.add_argument(
        "--truncation",
        type=float,
        default=0.0,
        metavar="T",
        help="bound of the latents' elements, such as 1.0: more typical images, fewer kinds",
    )
    group.add_argument(
        "--realistic",
        type=float,
        metavar="SHARE",
        help="keep this share, the best by the GAN's own discriminator",
    )
    group.add_argument(
        "--agreed",
        type=Path,
        metavar="DIR",
        help="keep what this workdir's classifier, of the same training split, gives its class",
    )
    group.add_argument(
        "--no-copies",
        type=Path,
        metavar="DATA",
        help="drop what is nearer to a training image than other lesions are; the prepared set",
    )
    parser.set_defaults(run=commands.generate)


def _add_study(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "study",
        help="find out, with intervals, whether generated images help a classifier",
        description=_STUDY_HELP,
        formatter_class=_Formatter,
    )
    parser.add_argument(
        "--config", required=True, help="the recipe, such as configs/study.py or FILE:VARIANT"
    )
    parser.add_argument("--data", type=Path, required=True, help="the prepared set")
    parser.add_argument("--out", type=Path, required=True, help="the study's folder")
    parser.set_defaults(run=commands.study)


def _add_predict(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "predict",
        help="ask a trained classifier about image files",
        description="Shows the probability of each class, calibrated on the validation split. "
        "It knows four kinds of lesion, and gives one of them to any picture.",
        formatter_class=_Formatter,
    )
    parser.add_argument("--model", type=Path, required=True, help="workdir of train_classifier.py")
    parser.add_argument("--json", action="store_true", help="print JSON, a line for each image")
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="DIR",
        help="write where it looks (Grad-CAM), a picture for each image",
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.set_defaults(run=commands.predict)


def _add_split_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("splits", "Unset values are the recipe's, or in parentheses.")
    group.add_argument("--test-per-class", type=int, help="test images of each class (100)")
    group.add_argument("--train-per-class", type=int, help="at most so many in training (all)")
    group.add_argument(
        "--validation-fraction", type=float, help="share of what the test split leaves (0.15)"
    )
    group.add_argument(
        "--cap", action="append", default=[], metavar="CLASS=N", help="at most N images of a class"
    )
