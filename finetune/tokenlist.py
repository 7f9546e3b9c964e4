"""Words to be added to a vocabulary as a recipe lists them, and ids of trained rows: what is right and wrong with either."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# What the input embedding and the output layer are called, by the last part of their names.
VOCABULARY_LAYERS = ("embed_tokens", "lm_head", "wte", "embed_out", "word_embeddings", "embed_in", "tok_embeddings")


def word_problem(word: str) -> str | None:
    """Why a word can't be a token of its own; None when it can.

    One space before it is part of the token (most tokenizers have such: ` QNH` spares the space a token). What stands
    at the end of a word, or a line break in it, can't be seen in a list.
    """
    if not word.strip():
        return "a token is needed, not white space alone"
    if any(unicodedata.category(character) in ("Cc", "Co", "Cs") for character in word):
        return f"{word!r}: holds a line break, a control or a private-use character"
    if word != word.rstrip() or word[word[0] == " " :] != word.strip():
        return f"{word!r}: white space at an end; only one space before a token may be part of it"
    return None


def read_words(file: Path) -> tuple[list[str], list[str]]:
    """The tokens of a text file, one a line, and what is wrong with it, each as `file:line: what`."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return [], [f"{file}: not UTF-8 (byte {error.start})"]
    except OSError as error:
        return [], [f"{file}: can't be read: {error.strerror or error}"]
    lines = text.split("\n")
    lines = [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    first: dict[str, int] = {}
    problems = [] if lines else [f"{file}: no tokens in it"]
    for number, line in enumerate(lines, start=1):
        problem = "a blank line" if not line.strip() else word_problem(line)
        if problem is None and first.setdefault(line, number) != number:
            problem = f"{line!r} is there already, in line {first[line]}"
        problems += [f"{file}:{number}: {problem}"] if problem else []
    return list(first), problems


def clashes(words: Sequence[str], lora: Mapping[str, Any]) -> list[str]:
    """Settings of `lora:` that would train the same rows in another way."""
    if not words:
        return []
    problems = []
    if lora.get("trainable_token_indices") is not None:
        problems.append(
            "model.add_tokens: sets lora.trainable_token_indices itself, which is given too; to train the rows of tokens "
            "that are there already, list them in add_tokens as well"
        )
    for key in ("modules_to_save", "target_modules"):
        named = lora.get(key) or ()
        names = [named] if isinstance(named, str) else named
        ends = [name for name in names if name.rpartition(".")[2] in VOCABULARY_LAYERS]
        if ends:
            problems.append(
                f"model.add_tokens: trains single rows of embedding and output layer, lora.{key} has {', '.join(ends)} "
                "too; keep one of the two"
            )
    return problems


def index_problems(indices: Any, rows: int | None) -> list[str]:
    """What of `lora.trainable_token_indices` is beyond a vocabulary of `rows`; nothing where that is not known yet."""
    if indices is None or rows is None:
        return []
    problems = []
    for layer, ids in indices.items() if isinstance(indices, Mapping) else [("", indices)]:
        where = f"lora.trainable_token_indices.{layer}" if layer else "lora.trainable_token_indices"
        beyond = ", ".join(str(token) for token in ids if token >= rows)
        if beyond:
            problems.append(
                f"{where}: {beyond}: beyond the vocabulary of {rows} rows (0 to {rows - 1}); for tokens that are not there "
                "yet use model.add_tokens"
            )
    return problems
