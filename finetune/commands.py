"""What each command does: a literal table. Nothing heavy is imported before a recipe has proved right."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable

from finetune import __version__
from finetune.arguments.bundles import export_arguments, merge_arguments, verify_arguments
from finetune.arguments.options import quiet_argument
from finetune.arguments.recipes import (
    audit_arguments,
    carry_arguments,
    check_arguments,
    completion_arguments,
    doctor_arguments,
    explain_arguments,
    plan_arguments,
    schema_arguments,
    show_arguments,
)
from finetune.arguments.rows import feedback_arguments, import_arguments, new_arguments, raft_arguments
from finetune.arguments.runs import (
    chat_arguments,
    evaluate_arguments,
    gate_arguments,
    iterate_arguments,
    parity_arguments,
    report_arguments,
    reproduce_arguments,
    runs_arguments,
    smoke_arguments,
    train_arguments,
)
from finetune.clihelp import EXIT_CODES, EXIT_MISTAKE, EXIT_OK, Help, examples
from finetune.told import tell


def _printed(lines: Iterable[str]) -> int:
    """The lines of a command that went well."""
    print(*lines, sep="\n")
    return EXIT_OK


def smoke(options: argparse.Namespace) -> int:
    """Run a recipe in seconds on a tiny random model of its base's architecture; for continuous integration."""
    from finetune.smoke.command import smoke_command

    return _printed(smoke_command(options))


def parity(options: argparse.Namespace) -> int:
    """Run the same few steps on several devices, compare; exit code 3 when one diverges, naming the first module."""
    from finetune.parity.command import parity_command

    return _printed(parity_command(options))


def train(options: argparse.Namespace) -> int:
    """Run a recipe from data to bundle."""
    from finetune.recipefile import load_recipe

    recipe = load_recipe(options.recipe, options.set)
    from finetune.run import run

    result = run(recipe, options.overwrite, options.resume)
    if result is not None:  # the main process
        tell(options.json, {"name": recipe.name, "bundle": str(result.bundle), "scores": result.scores})
    return EXIT_OK


def check(options: argparse.Namespace) -> int:
    """Check a recipe, its data template and every row, without loading a model."""
    from finetune.check import check_command

    return _printed(check_command(options))


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
    """Look at every row of a recipe's data; write audit.html and audit.json; exit code 2 when something would stop a run."""
    from finetune.audit import audit_command

    return EXIT_MISTAKE if audit_command(options) else EXIT_OK


def plan(options: argparse.Namespace) -> int:
    """Work out memory, time and cost before anything is loaded; exit code 3 when it does not fit, with what to change."""
    from finetune.plan.command import plan_command

    return plan_command(options)


def new(options: argparse.Namespace) -> int:
    """Write a data template or a whole pack, guessed from a file of rows, or a recipe begun as a shipped one."""
    if options.what == "recipe":
        from finetune.newrecipe import new_recipe_command

        lines = new_recipe_command(options)
        print(*lines, sep="\n")
        tell(options.json, {"lines": lines})
        return EXIT_OK
    if options.what == "pack":
        from finetune.newpack.command import new_pack_command

        return _printed(new_pack_command(options))
    from finetune.data.scaffold import write_template

    write_template(options.sample, options.answer, options.output)
    print(options.output)
    tell(options.json, {"files": [str(options.output)]})
    return EXIT_OK


def import_(options: argparse.Namespace) -> int:
    """Write the recipe of a LLaMA-Factory, Axolotl or TRL configuration; what has no equivalent is told on stderr."""
    from finetune.migrate.command import import_command

    written, told = import_command(options)
    if told:
        print(*told, sep="\n", file=sys.stderr)
    print(*written, sep="\n")
    tell(options.json, {"files": written, "notes": told})
    return EXIT_OK


def schema(options: argparse.Namespace) -> int:
    """Print the JSON Schema of recipes, or of data templates, by which editors complete and check keys."""
    from finetune.schema.command import schema_command

    schema_command(options)
    return EXIT_OK


def explain(options: argparse.Namespace) -> int:
    """Say a recipe's final values, what each means, and the file and line, part, flag or default that each comes from."""
    from finetune.explain.command import explain_command

    for line in explain_command(options):
        print(line)
    return EXIT_OK


def raft(options: argparse.Namespace) -> int:
    """Build retrieval-augmented rows: questions with their gold passages among distractors."""
    from finetune.raft import raft_command

    print(raft_command(options))
    return EXIT_OK


def evaluate(options: argparse.Namespace) -> int:
    """Ask base, adapter and previous release everything that the recipe says; exit code 3 when the gate says no."""
    from finetune.evaluation import evaluate_command

    return _printed(evaluate_command(options))


def gate(options: argparse.Namespace) -> int:
    """Hold the recipe's gate against scores that are there; exit code 3 when it says no."""
    from finetune.evaluation import gate_command

    return _printed(gate_command(options))


def feedback(options: argparse.Namespace) -> int:
    """Turn logs of served conversations with ratings and corrections into screened rows to train on."""
    from finetune.feedback.command import feedback_command

    return _printed(feedback_command(options))


def iterate(options: argparse.Namespace) -> int:
    """Turn the wheel once: logs to a data version, the recipe trained on it, the gate against the release before."""
    from finetune.iterate import iterate_command

    return _printed(iterate_command(options))


def chat(options: argparse.Namespace) -> int:
    """Ask the base and the tuned model of a run or a bundle side by side; what is typed, piped or given."""
    from finetune.chat.command import chat_command

    chat_command(options)
    return EXIT_OK


def report(options: argparse.Namespace) -> int:
    """Write report.html of a run that is there, in whatever state: one page that needs no network."""
    from finetune.report.command import report_command

    files = report_command(options)
    print(*files, sep="\n")
    tell(options.json, {"files": files})
    return EXIT_OK


def runs(options: argparse.Namespace) -> int:
    """List the runs in a folder, or compare two: `runs [FOLDER]`, `runs compare A B`."""
    from finetune.report.command import runs_command

    runs_command(options)
    return EXIT_OK


def export(options: argparse.Namespace) -> int:
    """Write the bundle of a finished run, or of an adapter made elsewhere: merge, proof, serving files."""
    from finetune.export.command import export_command

    return _printed(export_command(options))


def merge(options: argparse.Namespace) -> int:
    """Make one adapter of several on the same base, by weight."""
    from finetune.export.combine import combine_command

    return _printed(combine_command(options))


def verify(options: argparse.Namespace) -> int:
    """Ask a running server, or a bundle on disk, the bundle's golden samples; exit code 3 when it answers otherwise."""
    from finetune.verify.command import verify_command

    return _printed(verify_command(options))


def reproduce(options: argparse.Namespace) -> int:
    """Run a bundle's recipe again and compare data, adapter and scores with its manifest."""
    from finetune.reproduce import reproduce_command

    return _printed(reproduce_command(options))


def completion(options: argparse.Namespace) -> int:
    """Print what makes a shell complete commands, options and choices."""
    from finetune.completion import completion_script

    print(completion_script(command_parser(), options.shell))
    return EXIT_OK


def doctor(options: argparse.Namespace) -> int:
    """Say what is wrong with this machine before a job starts, line by line with the remedy; exit code 2 when a line is
    an error, 0 otherwise (warnings too)."""
    from finetune.doctor.command import doctor_command

    return doctor_command(options)


def carry(options: argparse.Namespace) -> int:
    """List, or copy, what a machine without a network needs for recipes: wheels, models, data, each with its hash."""
    from finetune.carry.command import carry_command

    return _printed(carry_command(options))


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], Callable[[argparse.ArgumentParser], None]]] = {
    "new": (new, new_arguments),
    "import": (import_, import_arguments),
    "doctor": (doctor, doctor_arguments),
    "raft": (raft, raft_arguments),
    "feedback": (feedback, feedback_arguments),
    "check": (check, check_arguments),
    "explain": (explain, explain_arguments),
    "schema": (schema, schema_arguments),
    "show": (show, show_arguments),
    "audit": (audit, audit_arguments),
    "plan": (plan, plan_arguments),
    "smoke": (smoke, smoke_arguments),
    "parity": (parity, parity_arguments),
    "train": (train, train_arguments),
    "evaluate": (evaluate, evaluate_arguments),
    "gate": (gate, gate_arguments),
    "iterate": (iterate, iterate_arguments),
    "chat": (chat, chat_arguments),
    "report": (report, report_arguments),
    "runs": (runs, runs_arguments),
    "export": (export, export_arguments),
    "merge": (merge, merge_arguments),
    "verify": (verify, verify_arguments),
    "reproduce": (reproduce, reproduce_arguments),
    "carry": (carry, carry_arguments),
    "completion": (completion, completion_arguments),
}


def command_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finetune",
        description="From a recipe to a proven, servable model.",
        formatter_class=Help,
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (function, arguments) in COMMANDS.items():
        command = commands.add_parser(
            name, help=function.__doc__, description=function.__doc__, allow_abbrev=False,
            formatter_class=Help, epilog=examples(name),
        )  # fmt: skip
        arguments(command)
        if command._subparsers is None:  # else its kinds have it
            quiet_argument(command)
    return parser
