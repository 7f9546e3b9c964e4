"""A shell command with options as the values of a configuration: `trl sft --learning_rate 2e-5 ...`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from finetune.errors import RecipeError
from finetune.migrate.draft import Given
from finetune.yamlfile import parse_scalar, read_yaml

COMMANDS = ("sft", "dpo", "kto", "reward", "orpo", "cpo", "grpo", "rloo", "gkd", "distillation")
LAUNCHERS = {
    "--num_processes": "processes",
    "--nproc_per_node": "each",
    "--nproc-per-node": "each",
    "--nnodes": "nodes",
}
# Values of these go on until the next option.
LISTS = (
    "lora_target_modules",
    "lora_target_parameters",
    "lora_modules_to_save",
    "loss_type",
    "loss_weights",
    "report_to",
)
_SCRIPT = re.compile(r"(?:.*/)?([A-Za-z0-9_]+)\.py")


def looks_like_a_command(text: str) -> bool:
    """Words and an option, no `key: value` line at the beginning."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return bool(lines) and not re.match(r"[\w.-]+\s*:(\s|$)", lines[0]) and any("--" in line for line in lines)


def read_command(file: Path, text: str) -> Given:
    """The command that trains, with its options; `--config FILE` is read and the options go before what it says.

    Raises:
        RecipeError: no such command, quotes that don't close, shell variables, options without a value.
    """
    words, line = _words(file, text)
    start, stage = _trainer(file, words, line)
    options, problems = _options(words[start:], f"{file}:{line}")
    for key, value in options.items():
        if re.search(r"\$[\w{(]", str(value)):
            problems.append(f"{file}:{line}: --{key}: {value}: holds a shell variable; write its value into the file")
    if problems:
        raise RecipeError(problems)
    values: dict[str, Any] = {}
    where: dict[str, str] = {}
    if isinstance(config := options.pop("config", None), str):
        values, lines = read_yaml(Path(config) if Path(config).exists() else file.parent / config)
        where = {key: f"{config}:{lines[(key,)]}" for key in values}
    values |= options
    where |= {key: f"{file}:{_line_of(text, key, line)}" for key in options}
    return Given(file, values, where, _processes(words[:start]), stage)


def _line_of(text: str, key: str, first: int) -> int:
    """The line that an option stands in, of those from the command's first one on."""
    option = re.compile(rf"--(no[-_])?{key.replace('_', '[-_]')}(?![\w-])")
    lines = text.splitlines()
    return next((number for number in range(first, len(lines) + 1) if option.search(lines[number - 1])), first)


def _words(file: Path, text: str) -> tuple[list[str], int]:
    """The words of the first command that has options, and its line; lines that end with a backslash go on."""
    joined, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first or (number if line.strip() and not line.lstrip().startswith("#") else 0)
        joined += line.rstrip("\\") if line.endswith("\\") else line
        if line.endswith("\\"):
            continue
        try:
            words = shlex.split(joined, comments=True)
        except ValueError as error:
            raise RecipeError(f"{file}:{first}: can't be read as a command: {error}") from None
        if any(word.startswith("--") for word in words):
            return words, first
        joined, first = "", 0
    if joined:
        return shlex.split(joined, comments=True), first
    raise RecipeError(f"{file}: holds no command with options")


def _trainer(file: Path, words: list[str], line: int) -> tuple[int, str]:
    """Where the options of the training command begin, and its name."""
    for index, word in enumerate(words):
        script = _SCRIPT.fullmatch(word)
        name = script[1] if script else word if index and words[index - 1].endswith("trl") else None
        if name in COMMANDS:
            return index + 1, name
    raise RecipeError(
        f"{file}:{line}: no training command of TRL in it: `trl sft ...`, or a script called {', '.join(COMMANDS[:6])}.py"
    )


def _options(words: list[str], where: str) -> tuple[dict[str, Any], list[str]]:
    found: dict[str, Any] = {}
    problems: list[str] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word in ("&", "&&", "|", ";", ">", ">>", "2>&1"):
            break
        if not word.startswith("--") or word == "--":
            problems.append(f"{where}: {word}: is no option, nor the value of one")
            continue
        name, equals, text = word.removeprefix("--").partition("=")
        key, rest = name.replace("-", "_"), [text] if equals else []
        while index < len(words) and not equals and not words[index].startswith("--") and words[index] not in "&|;>":
            rest.append(words[index])
            index += 1
            if key not in LISTS:
                break
        if key.startswith("no_") and not rest:  # how transformers' parser says false
            key, rest = key.removeprefix("no_"), ["false"]
        problems += [f"{where}: --{key}: given twice"] if key in found else []
        found[key] = [parse_scalar(item) for item in rest] if len(rest) > 1 else parse_scalar(rest[0]) if rest else True
    return found, problems


def _processes(words: list[str]) -> int | None:
    """How many a launcher before the command starts: `accelerate launch --num_processes 8`, `torchrun --nproc_per_node 8`."""
    told = {}
    for index, word in enumerate(words):
        name, _, text = word.partition("=")
        value = text or (words[index + 1] if index + 1 < len(words) else "")
        if name in LAUNCHERS and value.isdecimal() and int(value):
            told[LAUNCHERS[name]] = int(value)
    if "processes" in told:
        return told["processes"]
    return told["each"] * told.get("nodes", 1) if "each" in told else None
