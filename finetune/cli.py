"""The command line: a table of commands. Nothing heavy is imported before a recipe has proved right."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from finetune import __version__
from finetune.device import before_torch, launched, local_rank
from finetune.errors import GateError, RecipeError, TrainingError
from finetune.model.quantization import METHODS
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


def smoke(options: argparse.Namespace) -> int:
    """Run a recipe in seconds on a tiny random model of its base's architecture; for continuous integration."""
    from finetune.smoke.command import smoke_command

    print(*smoke_command(options), sep="\n")
    return EXIT_OK


def parity(options: argparse.Namespace) -> int:
    """Run the same few steps on several devices, compare; exit code 3 when one diverges, naming the first module."""
    from finetune.parity.command import parity_command

    print(*parity_command(options), sep="\n")
    return EXIT_OK


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
    from finetune.inputs import load_stages

    for stage, data in zip(recipe.stages or recipe.mixture or (recipe,), load_stages(recipe), strict=True):
        named = f"{'stage' if recipe.stages else 'part'} {stage.name}: " if recipe.stages or recipe.mixture else ""
        print(f"{options.recipe}: {named}right; {len(data.train)} samples to train on, {len(data.evaluate)} held out")
    return EXIT_OK


def show(options: argparse.Namespace) -> int:
    """Print rendered samples with the trained tokens marked."""
    from finetune.recipefile import load_recipe

    recipe = load_recipe(options.recipe, options.set)
    from finetune.show import show_samples

    for stage in recipe.stages or recipe.mixture or (recipe,):
        if recipe.stages or recipe.mixture:
            print(f"=== {'stage' if recipe.stages else 'part'} {stage.name}: {stage.stage}")
        show_samples(stage, options.rows)
    return EXIT_OK


def audit(options: argparse.Namespace) -> int:
    """Look at every row of a recipe's data; write audit.html and audit.json."""
    from finetune.recipefile import load_recipe

    recipe = load_recipe(options.recipe, options.set)
    from finetune.audit import audit_recipe

    failed = False
    for stage in recipe.stages or recipe.mixture or (recipe,):
        folder = options.output or Path(f"{recipe.output_dir}.audit")
        output = folder / stage.name if recipe.stages or recipe.mixture else options.output
        wrong, files = audit_recipe(stage, output, options.recipe.parent)
        print(*files, sep="\n")
        failed = failed or wrong
    return EXIT_MISTAKE if failed else EXIT_OK


def new(options: argparse.Namespace) -> int:
    """Write a data template, or a whole pack, to start from, guessed from a file of rows."""
    if options.what == "pack":
        from finetune.newpack.command import new_pack_command

        print(*new_pack_command(options), sep="\n")
        return EXIT_OK
    from finetune.data.scaffold import write_template

    write_template(options.sample, options.answer, options.output)
    print(options.output)
    return EXIT_OK


def raft(options: argparse.Namespace) -> int:
    """Build retrieval-augmented rows: questions with their gold passages among distractors."""
    from finetune.raft import raft_command

    print(raft_command(options))
    return EXIT_OK


def export(options: argparse.Namespace) -> int:
    """Write the bundle of a finished run, or of an adapter made elsewhere: merge, proof, serving files."""
    from finetune.export.command import export_command

    print(*export_command(options), sep="\n")
    return EXIT_OK


def merge(options: argparse.Namespace) -> int:
    """Make one adapter of several on the same base, by weight."""
    from finetune.export.combine import combine_command

    print(*combine_command(options), sep="\n")
    return EXIT_OK


def verify(options: argparse.Namespace) -> int:
    """Ask a running server, or a bundle on disk, the bundle's golden samples; exit code 3 when it answers otherwise."""
    from finetune.verify.command import verify_command

    print(*verify_command(options), sep="\n")
    return EXIT_OK


def reproduce(options: argparse.Namespace) -> int:
    """Run a bundle's recipe again and compare data, adapter and scores with its manifest."""
    from finetune.reproduce import reproduce_command

    print(*reproduce_command(options), sep="\n")
    return EXIT_OK


def doctor(options: argparse.Namespace) -> int:
    """Say what is wrong with this machine before a job starts, line by line with the remedy; exit code 2 when a line is
    an error, 0 otherwise (warnings too)."""
    from finetune.doctor.command import doctor_command

    return doctor_command(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done; 2 a mistake in recipe, template or data; 3 the gate or a proof said no; 4 the disk is full;
    5 training could not go on; 75 (EX_TEMPFAIL) stopped by a signal, to be resumed."""
    options = _parser().parse_args(arguments)
    if options.command != "doctor":  # it reports the environment as it was given
        before_torch()
    try:
        function, _arguments = COMMANDS[options.command]
        return function(options)
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


def program(arguments: Sequence[str] | None = None) -> NoReturn:
    """The process: `main`, and its exit code.

    One of several processes ends without the teardown of the interpreter and of C++ libraries. Caches of torch (the
    meshes of FSDP2) keep process groups alive, and their threads abort a process in its teardown now and then, after all
    its work is done. What is registered with atexit has run, what was printed is written.
    """
    code = main(arguments)
    if launched():
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


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


def _recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", type=Path, help="the recipe's YAML file")
    _overrides(command)


def _overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, as train.learning_rate=1e-4"
    )


def _new_arguments(command: argparse.ArgumentParser) -> None:
    kinds = command.add_subparsers(dest="what", required=True)
    template = kinds.add_parser("template", help="a data template", allow_abbrev=False)
    pack = kinds.add_parser("pack", help="template, sample, recipes and page of an industry's task", allow_abbrev=False)
    for kind in (template, pack):
        kind.add_argument("sample", type=Path, help="a file of rows: .jsonl, .json, .csv, ...")
        kind.add_argument("--answer", metavar="COLUMN", help="the column to be answered (default: the last)")
    template.add_argument("--output", type=Path, required=True, help="the template's YAML file")
    pack.add_argument("--industry", required=True, metavar="NAME", help="the folder of the pack, as shipping")
    pack.add_argument("--task", required=True, metavar="NAME", help="the task's file name and run, as port_delay")
    pack.add_argument("--group", metavar="COLUMN", help="its rows stay on one side of the split (default: guessed)")
    pack.add_argument("--into", type=Path, default=Path(), metavar="FOLDER", help="where to write (default: here)")


def _raft_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("questions", type=Path, help="rows of question, answer and gold (ids of passages)")
    command.add_argument("passages", type=Path, help="rows of id and text")
    command.add_argument("--distractors", type=_positive, default=3, help="other passages beside the gold (default 3)")
    command.add_argument(
        "--without-gold", type=float, default=0.2, metavar="SHARE", help="of the rows, lose their gold (default 0.2)"
    )
    command.add_argument(
        "--then", choices=["refuse", "memory"], default="refuse", help="what is right without gold (default refuse)"
    )
    command.add_argument("--folds", type=_positive, default=10, help="parts that share no passage (default 10)")
    command.add_argument("--seed", type=int, default=0, help="(default 0)")
    command.add_argument("--output", type=Path, required=True, help="the rows, as JSON Lines")


def _show_arguments(command: argparse.ArgumentParser) -> None:
    _recipe(command)
    command.add_argument("--rows", type=_positive, default=3, help="how many samples (default 3)")


def _audit_arguments(command: argparse.ArgumentParser) -> None:
    _recipe(command)
    command.add_argument("--output", type=Path, help="folder (default: <output_dir>.audit)")


def _smoke_arguments(command: argparse.ArgumentParser) -> None:
    _recipe(command)
    command.add_argument(
        "--output", type=Path, help="an empty folder to work in, which is kept (default: a temporary one)"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write steps, times and reasons here as JSON")
    command.add_argument("--keep", action="store_true", help="keep the temporary folder (a failure always does)")


def _parity_arguments(command: argparse.ArgumentParser) -> None:
    _recipe(command)
    command.add_argument(
        "--devices", metavar="cpu,npu", help="the reference first (default: cpu, and every other device that is here)"
    )
    command.add_argument("--steps", type=_positive, default=8, help="optimizer steps (default 8)")
    command.add_argument("--dtype", choices=["float32", "bfloat16"], help="to compute in (default: the recipe's)")
    command.add_argument(
        "--tiny", action="store_true", help="on a tiny random model of the base's architecture, as smoke does"
    )
    command.add_argument("--output", type=Path, help="folder (default: <output_dir>.parity)")


def _doctor_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "recipe", type=Path, nargs="?", metavar="RECIPE", help="also say whether it can run on this machine"
    )
    _overrides(command)
    command.add_argument("--json", metavar="FILE|-", help="write the lines here as JSON; -: print nothing else")


def _train_arguments(command: argparse.ArgumentParser) -> None:
    _recipe(command)
    earlier = command.add_mutually_exclusive_group()
    earlier.add_argument("--overwrite", action="store_true", help="replace an earlier run in output_dir")
    earlier.add_argument(
        "--resume", metavar="auto|FOLDER", help="go on from the newest valid checkpoint, or from this one"
    )


def _export_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("adapter", type=Path, metavar="RUN|ADAPTER", help="a run's folder, or a PEFT adapter's")
    command.add_argument("--base", help="hub id or folder (default: the one that the run or the adapter names)")
    command.add_argument("--output", type=Path, help="the bundle's folder (default: <run>/bundle)")
    command.add_argument("--prompts", type=Path, help="JSON Lines of messages to prove the merge of a bare adapter on")
    command.add_argument(
        "--trained-on", choices=[*METHODS], help="how the adapter's base was quantised as it was loaded (QLoRA: nf4)"
    )
    command.add_argument(
        "--merge-into",
        choices=["dequantised", "original"],
        help="of an adapter on a quantised base (default: dequantised)",
    )
    command.add_argument("--overwrite", action="store_true", help="replace an earlier bundle")
    command.add_argument("--push-to-hub", metavar="ORG/NAME", help="upload the bundle to the Hugging Face hub")
    command.add_argument("--push-to-modelscope", metavar="ORG/NAME", help="upload the bundle to ModelScope")
    command.add_argument("--revision", help="branch of the hub to upload to (default: its main one)")
    command.add_argument("--public", action="store_true", help="uploads that all may read (default: private)")
    _overrides(command)


def _merge_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("adapters", nargs="+", metavar="FOLDER[=WEIGHT]", help="PEFT adapters of one base")
    command.add_argument(
        "--method", default="linear", help="linear, ties, dare_linear, dare_ties, ... (default linear)"
    )
    command.add_argument("--density", type=float, help="share of values kept, for ties and dare (0 to 1)")
    command.add_argument("--seed", type=int, default=0, help="of dare's choice of values (default 0)")
    command.add_argument("--output", type=Path, required=True, help="the new adapter's folder")


def _verify_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "server", metavar="URL|DIR", help="an OpenAI-compatible server (http://host:8000/v1), or a bundle"
    )
    command.add_argument("--bundle", type=Path, help="the bundle whose golden samples are asked (needed with a URL)")
    command.add_argument("--model", help="the model's name at the server (default: the only one it lists)")
    command.add_argument("--json", type=Path, help="write the report here as JSON")
    command.add_argument("--api-key-file", type=Path, help="a file that holds the server's key")
    command.add_argument("--samples", type=_positive, help="ask this many golden samples (default: all)")
    command.add_argument("--timeout", type=float, default=120.0, help="seconds without a byte (default 120)")
    command.add_argument("--tolerance", type=float, help="how far a mean score may fall (default 0.02, or one sample)")
    command.add_argument(
        "--divergence", type=float, default=0.02, help="answers that part from the golden ones, a token (default 0.02)"
    )
    command.add_argument("--exact", type=float, help="least share of answers equal to the letter (default: any)")
    command.add_argument("--first-token", type=float, metavar="SECONDS", help="latest first token (95th percentile)")
    command.add_argument("--tokens-per-second", type=float, metavar="N", help="slowest answer (median)")
    command.add_argument(
        "--trust-remote-code", action="store_true", help="run the folder's own *.py, where its model needs them"
    )
    command.add_argument("--concurrency", type=_positive, default=1, help="ask again, this many at a time (default 1)")


def _reproduce_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", type=Path, help="a bundle's folder")
    command.add_argument("--output", type=Path, help="folder of the new run (default: <bundle>.reproduced)")
    _overrides(command)


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], Callable[[argparse.ArgumentParser], None]]] = {
    "new": (new, _new_arguments),
    "doctor": (doctor, _doctor_arguments),
    "raft": (raft, _raft_arguments),
    "check": (check, _recipe),
    "show": (show, _show_arguments),
    "audit": (audit, _audit_arguments),
    "smoke": (smoke, _smoke_arguments),
    "parity": (parity, _parity_arguments),
    "train": (train, _train_arguments),
    "export": (export, _export_arguments),
    "merge": (merge, _merge_arguments),
    "verify": (verify, _verify_arguments),
    "reproduce": (reproduce, _reproduce_arguments),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finetune", description="From a recipe to a proven, servable model.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (function, arguments) in COMMANDS.items():
        arguments(commands.add_parser(name, help=function.__doc__, description=function.__doc__, allow_abbrev=False))
    return parser


if __name__ == "__main__":
    program()
