"""The command line: a table of commands. Nothing heavy is imported before a recipe has proved right."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from finetune import __version__
from finetune.device import local_rank
from finetune.errors import GateError, RecipeError, TrainingError
from finetune.stop import Preempted

EXIT_OK, EXIT_MISTAKE, EXIT_GATE, EXIT_DISK_FULL, EXIT_TRAINING, EXIT_PREEMPTED, EXIT_INTERRUPTED = (
    0,
    2,
    3,
    4,
    5,
    75,
    130,
)


def train(options: argparse.Namespace) -> int:
    """Run a recipe from data to bundle."""
    from finetune.recipefile import load_recipe

    recipe = load_recipe(options.recipe, options.set)
    from finetune.run import run

    run(recipe, options.overwrite, options.resume)
    return EXIT_OK


def check(options: argparse.Namespace) -> int:
    """Check a recipe, its data template and every row, without loading a model."""
    from finetune.recipefile import load_recipe

    recipe = load_recipe(options.recipe, options.set)
    from finetune.inputs import load_data

    data = load_data(recipe)
    print(f"{options.recipe}: right; {len(data.train)} samples to train on, {len(data.evaluate)} held out")
    return EXIT_OK


def show(options: argparse.Namespace) -> int:
    """Print rendered samples with the trained tokens marked."""
    from finetune.recipefile import load_recipe

    recipe = load_recipe(options.recipe, options.set)
    from finetune.show import show_samples

    show_samples(recipe, options.rows)
    return EXIT_OK


def audit(options: argparse.Namespace) -> int:
    """Look at every row of a recipe's data; write audit.html and audit.json."""
    from finetune.recipefile import load_recipe

    recipe = load_recipe(options.recipe, options.set)
    from finetune.audit import audit_recipe

    failed, files = audit_recipe(recipe, options.output, options.recipe.parent)
    print(*files, sep="\n")
    return EXIT_MISTAKE if failed else EXIT_OK


def new(options: argparse.Namespace) -> int:
    """Write a data template to start from, guessed from a file of rows."""
    from finetune.data.scaffold import write_template

    write_template(options.sample, options.answer, options.output)
    print(options.output)
    return EXIT_OK


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "new": new,
    "check": check,
    "show": show,
    "audit": audit,
    "train": train,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done; 2 a mistake in recipe, template or data; 3 the gate or a proof said no; 4 the disk is full;
    5 training could not go on; 75 (EX_TEMPFAIL) stopped by a signal, to be resumed."""
    options = _parser().parse_args(arguments)
    try:
        return COMMANDS[options.command](options)
    except RecipeError as error:
        many = ["several things are wrong:"] if len(error.problems) > 1 else []
        return _stop(EXIT_MISTAKE, *many, *error.problems)
    except GateError as error:
        return _stop(EXIT_GATE, str(error))
    except TrainingError as error:
        return _stop(EXIT_TRAINING, str(error))
    except Preempted as signal:
        return _stop(EXIT_PREEMPTED, f"stopped by {signal}; the same command with --resume auto goes on")
    except KeyboardInterrupt:
        return _stop(EXIT_INTERRUPTED, "interrupted")
    except Exception as error:
        if "No space left on device" not in str(error):  # OSError, safetensors' own error and torch's all say so
            raise
        return _stop(EXIT_DISK_FULL, f"the disk is full; nothing half-written is left ({error})")


def _stop(code: int, *lines: str) -> int:
    """The lines on stderr, once a machine however many processes run into the same mistake."""
    if local_rank() == 0:
        print(*lines, sep="\n", file=sys.stderr)
    return code


def _positive(text: str) -> int:
    """A whole number from 1 on, of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on is needed, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finetune", description="From a recipe to a proven, servable model.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__, allow_abbrev=False)
        if name == "new":
            command.add_argument("what", choices=["template"], help="what to write")
            command.add_argument("sample", type=Path, help="a file of rows: .jsonl, .json, .csv, ...")
            command.add_argument("--answer", help="the column to be answered (default: the last)")
            command.add_argument("--output", type=Path, required=True, help="the template's YAML file")
            continue
        command.add_argument("recipe", type=Path, help="the recipe's YAML file")
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override a key, as train.learning_rate=1e-4",
        )
        if name == "train":
            earlier = command.add_mutually_exclusive_group()
            earlier.add_argument("--overwrite", action="store_true", help="replace an earlier run in output_dir")
            earlier.add_argument(
                "--resume", metavar="auto|FOLDER", help="go on from the newest valid checkpoint, or from this one"
            )
        if name == "audit":
            command.add_argument("--output", type=Path, help="folder (default: <output_dir>.audit)")
        if name == "show":
            command.add_argument("--rows", type=_positive, default=3, help="how many samples (default 3)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
