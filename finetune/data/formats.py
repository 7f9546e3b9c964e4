"""Known formats of ready rows: which one they have, and rows as samples of the kind that a stage trains on.

The shapes are those of OpenAI's fine-tuning API (`messages`), FastChat (ShareGPT's `conversations`), Stanford Alpaca,
and TRL's dataset formats (`prompt`/`completion`, `chosen`/`rejected`, `label`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data import conversation
from finetune.data.conversation import (
    brief,
    check_arguments,
    check_order,
    read_calls,
    read_json,
    read_messages,
    read_text,
    read_tools,
)
from finetune.data.pairs import read_labelled, read_preference, read_prompt_completion
from finetune.data.rows import Message, Row, Sample
from finetune.errors import DataError, did_you_mean

# What a stage trains on: a conversation, a prompt with a better and a worse answer, an answer with a label, plain text.
ROWS_OF_STAGE = {
    "cpt": "text", "sft": "conversation", "dpo": "preference", "orpo": "preference", "simpo": "preference",
    "kto": "labelled", "reward": "preference", "grpo": "conversation", "distill": "conversation",
}  # fmt: skip


def detect(rows: Sequence[Row]) -> str:
    """The name of the format that all rows have, out of FORMATS, told by their columns.

    Raises:
        DataError: the first row of no known format, or the first of another format than the first row.
    """
    first = None
    for row in rows:
        name = next((name for name, format in FORMATS.items() if format.fits(row.values)), None)
        if name is None:
            columns = ", ".join(map(str, row.values)) or "none"
            needs = "; ".join(f"{name}: {format.columns}" for name, format in FORMATS.items())
            raise DataError(
                f"{row.where}: the columns ({columns}) are those of no known format ({needs}); use a template"
            )
        if first is not None and name != first:
            raise DataError(f"{row.where}: format {name}, but {rows[0].where} is {first}; give each its own source")
        first = name
    if first is None:
        raise DataError("there are no rows whose format could be told")
    return first


def to_samples(rows: Sequence[Row], format: str, stage: str = "sft") -> list[Sample]:
    """Rows as the samples that a stage trains on.

    Args:
        format: a name out of FORMATS, or `auto`.

    Raises:
        DataError: every malformed row as `file:line: column: what`; no such format, or one that is for other stages.
    """
    name = detect(rows) if format == "auto" else format
    if name not in FORMATS:
        raise DataError(f"data.format: {name!r} is not a format{did_you_mean(name, FORMATS)}")
    check_rows(name, stage, rows[0].file if rows else "data.format")
    samples: list[Sample] = []
    problems: list[str] = []
    for row in rows:
        found: list[str] = []
        item = FORMATS[name].parse(row, found)
        problems += [f"{row.where}: {problem}" for problem in found]
        if not found:
            samples.append(item)
    if problems:
        raise DataError(problems)
    return samples


def check_rows(name: str, stage: str, where: str) -> None:
    """Raises DataError for a format whose rows are for other stages."""
    if name in FORMATS and FORMATS[name].rows != ROWS_OF_STAGE[stage]:
        takers = ", ".join(other for other, rows in ROWS_OF_STAGE.items() if rows == FORMATS[name].rows)
        wanted = ROWS_OF_STAGE[stage]
        formats = ", ".join(other for other, format in FORMATS.items() if format.rows == wanted)
        raise DataError(f"{where}: format {name} is for stage {takers}; stage {stage} trains on {formats}")


def _messages(row: Row, problems: list[str]) -> Sample:
    column = "messages" if "messages" in row.values else "conversations"
    if column not in row.values:
        problems.append(f"messages: is missing{did_you_mean('messages', map(str, row.values), 'the row has')}")
        return Sample(row.values, (), row.where)
    tools = read_tools(row.values.get("tools"), "tools", problems)
    messages = read_messages(row.values.get(column), column, problems)
    check_order(messages, column, problems, tools)
    check_arguments(messages, column, problems, tools)
    return Sample(row.values, tuple(messages), row.where, tools)


SPEAKERS = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "function_call": "assistant",
    "observation": "tool", "tool": "tool", "function_response": "tool",
}  # fmt: skip


def _sharegpt(row: Row, problems: list[str]) -> Sample:
    """A turn's `value` is text; of a `function_call`, the JSON text of a call or of a list of calls."""
    tools = read_tools(row.values.get("tools"), "tools", problems)
    turns = read_json(row.values.get("conversations"), "conversations", problems)
    if not isinstance(turns, list) or not turns:
        if turns is not None:
            problems.append(f"conversations: a list of turns is needed, got {brief(turns)}")
        turns = []
    before = len(problems)
    messages = [_turn(turn, f"conversations[{index}]", problems) for index, turn in enumerate(turns)]
    if len(problems) == before:
        check_order(messages, "conversations", problems, tools)
        check_arguments(messages, "conversations", problems, tools)
    system = _system(row, problems)
    if system and messages and messages[0].get("role") == "system":
        problems.append("system: the conversation has a system message of its own")
    return Sample(row.values, (*system, *messages), row.where, tools)


def _turn(turn: Any, at: str, problems: list[str]) -> Message:
    if not isinstance(turn, dict):
        problems.append(f"{at}: an object with from and value is needed, got {brief(turn)}")
        return {}
    speaker, value = turn.get("from"), turn.get("value")
    if speaker not in SPEAKERS:
        problems.append(f"{at}.from: {brief(speaker)} is not a speaker{did_you_mean(str(speaker), SPEAKERS)}")
        return {}
    message: Message = {"role": SPEAKERS[speaker], "content": ""}
    if speaker == "function_call":
        call = read_json(value, f"{at}.value", problems)
        if call is not None:
            message["tool_calls"] = read_calls(call if isinstance(call, list) else [call], f"{at}.value", problems)
    else:
        message["content"] = read_text(value, f"{at}.value", problems, may_be_empty=message["role"] == "tool")
    return message if conversation.trained(turn, at, problems) else message | {"train": False}


def _system(row: Row, problems: list[str]) -> list[Message]:
    """The system message of a column `system`; null and empty text are none."""
    value = row.values.get("system")
    if value is None or value == "":
        return []
    return [{"role": "system", "content": read_text(value, "system", problems)}]


def _alpaca(row: Row, problems: list[str]) -> Sample:
    """The user says the instruction and, on a new line, the input; `history` holds earlier [question, answer] pairs."""
    messages = _system(row, problems)
    history = row.values.get("history")
    pairs = [] if history is None or history == "" else read_json(history, "history", problems)
    if not isinstance(pairs, list):
        problems.append(f"history: a list of [question, answer] is needed, got {brief(pairs)}")
        pairs = []
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2:
            problems.append(f"history[{index}]: [question, answer] is needed, got {brief(pair)}")
            continue
        messages += _exchange(pair[0], f"history[{index}][0]", pair[1], f"history[{index}][1]", problems)
    question, answer = row.values.get("instruction"), row.values.get("output")
    asked = _exchange(question, "instruction", answer, "output", problems)
    more = row.values.get("input")
    if more is not None and more != "":
        asked[0]["content"] += "\n" + read_text(more, "input", problems)
    return Sample(row.values, (*messages, *asked), row.where)


def _exchange(question: Any, at: str, answer: Any, answer_at: str, problems: list[str]) -> list[Message]:
    return [
        {"role": "user", "content": read_text(question, at, problems)},
        {"role": "assistant", "content": read_text(answer, answer_at, problems)},
    ]


def _text(row: Row, problems: list[str]) -> Sample:
    text = read_text(row.values.get("text"), "text", problems)
    return Sample(row.values, ({"role": "text", "content": text},), row.where)


@dataclass(frozen=True)
class Format:
    """`needed` columns tell it (all of one of the sets), `columns` names them for people, `rows` is a value of ROWS_OF_STAGE."""

    needed: tuple[frozenset[str], ...]
    columns: str
    parse: Callable[[Row, list[str]], Sample]
    rows: str = "conversation"
    said_by: str | None = None  # key of the first turn that tells apart two formats with the same columns

    def fits(self, values: dict[str, Any]) -> bool:
        if not any(needed <= values.keys() for needed in self.needed):
            return False
        return self.said_by is None or self.said_by in _first_turn(values)


def _first_turn(values: dict[str, Any]) -> dict[str, Any]:
    turns = values.get("conversations")
    turns = read_json(turns, "", []) if isinstance(turns, str) else turns
    return turns[0] if isinstance(turns, list) and turns and isinstance(turns[0], dict) else {"from": None}


def _sets(*columns: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(names.split()) for names in columns)


# In this order: the first that fits is it.
FORMATS: dict[str, Format] = {
    "preference": Format(_sets("chosen rejected"), "prompt, chosen, rejected", read_preference, "preference"),
    "labelled": Format(_sets("prompt completion label"), "prompt, completion, label", read_labelled, "labelled"),
    "sharegpt": Format(_sets("conversations"), "conversations (from, value)", _sharegpt, said_by="from"),
    "messages": Format(_sets("messages", "conversations"), "messages (role, content)", _messages),
    "alpaca": Format(_sets("instruction output"), "instruction, input, output", _alpaca),
    "prompt_completion": Format(_sets("prompt completion"), "prompt, completion", read_prompt_completion),
    "text": Format(_sets("text"), "text", _text, "text"),
}
