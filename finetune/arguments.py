"""The options of each command."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetune.clihelp import Help, examples
from finetune.errors import RecipeError
from finetune.model.quantization import METHODS
from finetune.plan.hardware import names as hardware_names
from finetune.shipped import recipe_file
from finetune.told import STDOUT


def _positive(text: str) -> int:
    """A whole number from 1 on, of an option."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on is needed, got {text!r}")
    return int(text)


def recipe_path(text: str) -> Path:
    """The file of a recipe that is given by its path, or, shipped with the package, as pack:NAME."""
    try:
        return recipe_file(text)
    except RecipeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def json_argument(command: argparse.ArgumentParser) -> None:
    """`--json`: alone on stdout, everything else on stderr; with a file beside what is printed."""
    command.add_argument(
        "--json", nargs="?", const=STDOUT, type=_not_a_recipe, metavar="FILE",
        help="the result as one JSON object: in FILE, or (no FILE, or -) on stdout with all else on stderr",
    )  # fmt: skip


def quiet_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("--quiet", action="store_true", help="print nothing but what is wrong")


def _not_a_recipe(text: str) -> str:
    """`--json RECIPE` would write over a recipe."""
    if Path(text).suffix in (".yaml", ".yml"):
        raise argparse.ArgumentTypeError(f"{text} would be written to; put --json after the recipe")
    return text


def _kind(kinds: argparse._SubParsersAction[argparse.ArgumentParser], name: str, what: str) -> argparse.ArgumentParser:
    """What a command of several kinds takes after its name."""
    kind = kinds.add_parser(
        name.rpartition(" ")[2], help=what, description=f"{what[0].upper()}{what[1:]}.", allow_abbrev=False,
        formatter_class=Help, epilog=examples(name),
    )  # fmt: skip
    quiet_argument(kind)
    return kind


def check_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    json_argument(command)


def recipe_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", type=recipe_path, help="the recipe's YAML file, or pack:NAME of a shipped one")
    _overrides(command)


def _overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key, as train.learning_rate=1e-4"
    )


def new_arguments(command: argparse.ArgumentParser) -> None:
    kinds = command.add_subparsers(dest="what", required=True)
    template = _kind(kinds, "new template", "a data template")
    pack = _kind(kinds, "new pack", "template, sample, recipes and page of an industry's task")
    for kind in (template, pack):
        kind.add_argument("sample", type=Path, help="a file of rows: .jsonl, .json, .csv, ...")
        kind.add_argument("--answer", metavar="COLUMN", help="the column to be answered (default: the last)")
        json_argument(kind)
    template.add_argument("--output", type=Path, required=True, help="the template's YAML file")
    pack.add_argument("--industry", required=True, metavar="NAME", help="the folder of the pack, as shipping")
    pack.add_argument("--task", required=True, metavar="NAME", help="the task's file name and run, as port_delay")
    pack.add_argument("--group", metavar="COLUMN", help="its rows stay on one side of the split (default: guessed)")
    pack.add_argument("--into", type=Path, default=Path(), metavar="FOLDER", help="where to write (default: here)")
    recipe = _kind(kinds, "new recipe", "a recipe of your own, begun as a shipped one")
    recipe.add_argument("name", nargs="?", help="a shipped recipe, as meteorology/metar_decode (default: list them)")
    recipe.add_argument("--output", type=Path, metavar="FILE", help="(default: here, under the recipe's own name)")
    recipe.add_argument("--copy", action="store_true", help="all of its keys (default: it extends the shipped one)")
    json_argument(recipe)


def import_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path, help="their YAML or JSON; of TRL also a text file with a command line")
    command.add_argument(
        "--from",
        dest="source",
        choices=["llamafactory", "axolotl", "trl"],
        help="whose it is (default: told by its keys)",
    )
    command.add_argument("--output", type=Path, metavar="FILE", help="the recipe (default: NAME.recipe.yaml beside it)")
    command.add_argument(
        "--processes",
        type=_positive,
        help="devices that share a batch there (default: as a launcher in it says, else 1)",
    )
    command.add_argument(
        "--stage",
        choices=["sft", "dpo", "kto", "reward", "orpo", "cpo"],
        help="of TRL: the command that a config is for",
    )
    command.add_argument("--overwrite", action="store_true", help="write over files that are there")
    json_argument(command)


def plan_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    command.add_argument(
        "--hardware", choices=hardware_names(), metavar="NAME",
        help=f"what it is to run on: {', '.join(hardware_names())} (default: the device at hand)",
    )  # fmt: skip
    command.add_argument("--processes", type=_positive, default=1, help="devices that share the batch (default 1)")
    command.add_argument(
        "--engine", choices=["ddp", "fsdp2", "zero2", "zero3"], help="how they share the model (default: ddp)"
    )
    command.add_argument("--price-per-hour", type=float, metavar="PRICE", help="of one device, in any currency")
    json_argument(command)


def raft_arguments(command: argparse.ArgumentParser) -> None:
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
    json_argument(command)


def feedback_arguments(command: argparse.ArgumentParser) -> None:
    kinds = command.add_subparsers(dest="what", required=True)
    logs = _kind(kinds, "feedback import", "rows to train on, out of logs with ratings and corrections")
    logs.add_argument("logs", nargs="+", metavar="LOG", help="files of JSON Lines (also .gz, .zst), folders, globs")
    logs.add_argument("--output", type=Path, required=True, help="a new folder")
    logs.add_argument("--recipe", type=recipe_path, help="a recipe whose held-out prompts must not be trained on")
    logs.add_argument(
        "--known", type=Path, action="append", default=[], metavar="FOLDER",
        help="an earlier import, or a folder of them: what it has is left out",
    )  # fmt: skip
    logs.add_argument(
        "--good", default="", metavar="LIST", help="ratings that are good, as 4,5 (default: by the scale)"
    )
    logs.add_argument("--bad", default="", metavar="LIST", help="ratings that are bad, as 1,2 (default: by the scale)")
    for name, default in (("personal-data", "redact"), ("secrets", "drop")):
        logs.add_argument(
            f"--{name}", choices=["redact", "drop", "error", "off"], default=default, help=f"(default {default})"
        )
    logs.add_argument(
        "--near-duplicates", type=float, metavar="INDEX", help="leave out rows as near as this, as 0.8 (default: off)"
    )
    logs.add_argument(
        "--least-correction", type=float, default=0.1, metavar="SHARE",
        help="shortest correction, as a share of the answer's characters (default 0.1)",
    )  # fmt: skip
    logs.add_argument(
        "--broken", choices=["error", "drop"], default="error", help="lines that are no log lines (default error)"
    )
    json_argument(logs)


def iterate_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "recipe", type=recipe_path, help="the recipe that the first release was, or is to be, trained by"
    )
    command.add_argument("logs", nargs="*", metavar="LOG", help="as `finetune feedback import` reads; none: end a turn")
    command.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="where data, recipes and runs lie")
    command.add_argument(
        "--release", type=Path, metavar="BUNDLE", help="what is served now (default: the recipe's own)"
    )
    command.add_argument(
        "--max-drop", type=float, default=0.02, metavar="X",
        help="how far the first score may fall below the release's (default 0.02), where the recipe's gate says nothing",
    )  # fmt: skip
    command.add_argument("--repeat", type=_positive, default=1, help="how many times each new row is used (default 1)")
    command.add_argument("--prepare", action="store_true", help="write data and recipe, and train later")
    json_argument(command)


def explain_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", type=Path, help="the recipe's YAML file")
    command.add_argument(
        "key",
        nargs="?",
        metavar="KEY",
        help="right after the recipe: as train.learning_rate; of a section all its keys (default: the whole recipe)",
    )
    _overrides(command)
    json_argument(command)


def completion_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("shell", choices=["bash", "zsh", "fish", "tcsh", "powershell"])


def schema_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--template", action="store_true", help="of a data template, not of a recipe")
    command.add_argument("--output", type=Path, metavar="FILE", help="write it here (default: print it)")


def show_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    command.add_argument("--rows", type=_positive, default=3, help="how many samples (default 3)")


def audit_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    command.add_argument("--output", type=Path, help="folder (default: <output_dir>.audit)")
    json_argument(command)


def smoke_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    command.add_argument(
        "--output", type=Path, help="an empty folder to work in, which is kept (default: a temporary one)"
    )
    json_argument(command)
    command.add_argument("--keep", action="store_true", help="keep the temporary folder (a failure always does)")


def parity_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    command.add_argument(
        "--devices", metavar="cpu,npu", help="the reference first (default: cpu, and every other device that is here)"
    )
    command.add_argument("--steps", type=_positive, default=8, help="optimizer steps (default 8)")
    command.add_argument("--dtype", choices=["float32", "bfloat16"], help="to compute in (default: the recipe's)")
    command.add_argument(
        "--tiny", action="store_true", help="on a tiny random model of the base's architecture, as smoke does"
    )
    command.add_argument("--output", type=Path, help="folder (default: <output_dir>.parity)")
    json_argument(command)


def doctor_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "recipe", type=recipe_path, nargs="?", metavar="RECIPE", help="also say whether it can run on this machine"
    )
    _overrides(command)
    json_argument(command)


def train_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    earlier = command.add_mutually_exclusive_group()
    earlier.add_argument("--overwrite", action="store_true", help="replace an earlier run in output_dir")
    earlier.add_argument(
        "--resume", metavar="auto|FOLDER", help="go on from the newest valid checkpoint, or from this one"
    )
    json_argument(command)


def evaluate_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    command.add_argument("--adapter", type=Path, metavar="FOLDER", help="(default: the one of the recipe's run)")
    command.add_argument("--output", type=Path, help="folder (default: <output_dir>.evaluation)")
    command.add_argument("--overwrite", action="store_true", help="replace an earlier evaluation")
    json_argument(command)


def gate_arguments(command: argparse.ArgumentParser) -> None:
    recipe_arguments(command)
    command.add_argument(
        "--scores", type=Path, metavar="FOLDER", help="of a run or an evaluation (default: the recipe's output_dir)"
    )
    json_argument(command)


def report_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "run", type=Path, metavar="RUN_FOLDER", help="a run's folder; an evaluation's or a bundle's too"
    )
    command.add_argument("--output", type=Path, metavar="FILE", help="(default: report.html in the folder)")
    json_argument(command)


def runs_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "what",
        nargs="*",
        metavar="[FOLDER | compare A B]",
        help="where to look for runs (default: runs); two to compare",
    )
    json_argument(command)
    command.add_argument("--html", type=Path, metavar="FILE", help="write one page that compares the runs")


def export_arguments(command: argparse.ArgumentParser) -> None:
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
    json_argument(command)
    _overrides(command)


def merge_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("adapters", nargs="+", metavar="FOLDER[=WEIGHT]", help="PEFT adapters of one base")
    command.add_argument(
        "--method", default="linear", help="linear, ties, dare_linear, dare_ties, ... (default linear)"
    )
    command.add_argument("--density", type=float, help="share of values kept, for ties and dare (0 to 1)")
    command.add_argument("--seed", type=int, default=0, help="of dare's choice of values (default 0)")
    command.add_argument("--output", type=Path, required=True, help="the new adapter's folder")
    json_argument(command)


def verify_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "server", metavar="URL|DIR", help="an OpenAI-compatible server (http://host:8000/v1), or a bundle"
    )
    command.add_argument("--bundle", type=Path, help="the bundle whose golden samples are asked (needed with a URL)")
    command.add_argument("--model", help="the model's name at the server (default: the only one it lists)")
    json_argument(command)
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


def reproduce_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", type=Path, help="a bundle's folder")
    command.add_argument("--output", type=Path, help="folder of the new run (default: <bundle>.reproduced)")
    json_argument(command)
    _overrides(command)


def carry_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "recipes", type=recipe_path, nargs="+", metavar="RECIPE", help="recipes that are to run over there"
    )
    command.add_argument("--output", type=Path, metavar="FOLDER", help="copy it all into a new folder, wheels too")
    command.add_argument(
        "--no-wheels", dest="wheels", action="store_false", help="with --output: do not ask pip for the wheels"
    )
    command.add_argument(
        "--extras", default="", metavar="LIST", help="of finetune, beside those that the recipes use, as units,chinese"
    )
    json_argument(command)
