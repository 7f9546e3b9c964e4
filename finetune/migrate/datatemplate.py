"""Data templates for rows whose columns no ready format has: a question and an answer, turns under other names, documents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

PROMPTS = (1, 3, 5, 7)  # messages of a conversation before its answer, without a system message
TURNS = {"type": "list", "items": {"type": "object"}}  # a column of them
ORDINALS = ("first", "second", "third", "fourth")


@dataclass(frozen=True)
class Columns:
    """Columns of a question and an answer.

    Attributes:
        question: asked; more: what stands on a new line after it, where it is there; system: what the system says.
        answer: for a conversation; chosen, rejected: for a preference; label: for a labelled answer.
        whole: chosen and rejected are whole conversations of role and content, whose last turns are the answers.
        fixed: what the system says in every row that says nothing itself.
        wording: Jinja in place of the question and `more`.
    """

    question: str
    answer: str = ""
    more: str | None = None
    system: str | None = None
    chosen: str = ""
    rejected: str = ""
    label: str = ""
    fixed: str = ""
    wording: str = ""
    whole: bool = False


@dataclass(frozen=True)
class Turns:
    """A column of turns with the peer's own words in it.

    Attributes:
        role, content: keys of a turn. user, assistant, system: what `role` says.
        chosen, rejected: columns of a preference, a turn each. label: the column, of a labelled answer.
    """

    column: str
    role: str = "role"
    content: str = "content"
    user: str = "user"
    assistant: str = "assistant"
    system: str | None = "system"
    chosen: str = ""
    rejected: str = ""
    label: str = ""


def named(column: str) -> str:
    """A column as Jinja reaches it."""
    return column if re.fullmatch(r"[A-Za-z_]\w*", column) and column != "record" else f"record[{_quoted(column)}]"


def of_text(name: str, origin: str, column: str) -> str:
    """A template for documents."""
    return _dump(
        name, f"Documents, as {origin} has them.", {column: {"type": "str"}},
        {"messages": [{"role": "text", "content": f"{{{{ {named(column)} }}}}"}]},
        [{"row": {column: "A document."}, "answer": "A document."}],
    )  # fmt: skip


def of_columns(name: str, origin: str, columns: Columns) -> str:
    """A template for a question and an answer, or for two answers, or for an answer with a label."""
    sides = (columns.chosen, columns.rejected)
    texts = [columns.question, columns.answer, *(() if columns.whole else sides)]
    types: dict[str, Any] = {text: {"type": "str"} for text in texts if text}
    types |= {side: TURNS for side in sides} if columns.whole else {}
    types |= {column: {"type": "str", "nullable": True} for column in (columns.more, columns.system) if column}
    types |= {columns.label: {"type": "bool"}} if columns.label else {}
    row: dict[str, Any] = {column: _made_up(column, rule, columns) for column, rule in types.items()}
    body: dict[str, Any]
    if columns.system:
        stated, said = f"({named(columns.system)} or '') | trim", f"{{{{ {named(columns.system)} }}}}"
        body = {
            "variants": [
                {"name": "system", "when": f"({stated}) != ''", "messages": _asked(columns, said)},
                {"name": "plain", "when": f"({stated}) == ''", "messages": _asked(columns, _literal(columns.fixed))},
            ]
        }  # fmt: skip
    else:
        body = {"messages": _asked(columns, _literal(columns.fixed))}
    if columns.label:
        body["label"] = named(columns.label)
    example: dict[str, Any] = {"row": row, "answer": "The answer."}
    if columns.system:
        example["variant"] = "system"
    if columns.rejected:
        example["rejected"] = "A worse answer."
    if columns.label:
        example["label"] = True
    return _dump(name, f"Questions and answers, as {origin} has them.", types, body, [example])


def _made_up(column: str, rule: dict[str, Any], columns: Columns) -> Any:
    """A value of a worked example."""
    if rule["type"] == "bool":
        return True
    worse = column == columns.rejected
    text = "A worse answer." if worse else "The answer."
    if rule["type"] == "list":
        return [{"role": "user", "content": "The question?"}, {"role": "assistant", "content": text}]
    if column in (columns.answer, columns.chosen) or worse:
        return text
    return {columns.question: "The question?", columns.system: "Answer shortly."}.get(column, "More of it.")


def _asked(columns: Columns, system: str) -> list[dict[str, Any]]:
    more = named(columns.more) if columns.more else ""
    asked = f"{{{{ {named(columns.question)} }}}}" + (
        f'{{% if {more} %}}{{{{ "\\n" ~ {more} }}}}{{% endif %}}' if more else ""
    )
    last = "[-1].content" if columns.whole else ""
    answer: dict[str, Any] = {
        "role": "assistant",
        "content": f"{{{{ {named(columns.chosen or columns.answer)}{last} }}}}",
    }
    if columns.rejected:
        answer["rejected"] = f"{{{{ {named(columns.rejected)}{last} }}}}"
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": columns.wording or asked}, answer]


def of_turns(name: str, origin: str, turns: Turns) -> str:
    """A template with a task for each form that a conversation has: one to four questions, with a system message or not."""
    types: dict[str, Any] = {turns.column: TURNS}
    types |= {side: {"type": "object"} for side in (turns.chosen, turns.rejected) if side}
    types |= {turns.label: {"type": "bool"}} if turns.label else {}
    forms = [(system, count) for count in PROMPTS for system in ((False, True) if turns.system else (False,))]
    tasks = [_task(turns, system, count) for system, count in forms]
    body: dict[str, Any] = {"tasks": tasks} | ({"label": named(turns.label)} if turns.label else {})
    return _dump(name, f"Conversations, as {origin} has them.", types, body, [_worked(turns, *form) for form in forms])


def _said_by(turns: Turns, system: bool, count: int) -> list[tuple[str, str]]:
    """Our role and theirs, of each turn of the column: `count` before the answer, and the answer unless two are to choose."""
    pair = [("user", turns.user), ("assistant", turns.assistant)]
    first = [("system", turns.system or "")] if system else []
    return first + [pair[index % 2] for index in range(count if turns.chosen else count + 1)]


def _task(turns: Turns, system: bool, count: int) -> dict[str, Any]:
    said = _said_by(turns, system, count)
    column = named(turns.column)
    roles = ", ".join(_quoted(theirs) for _, theirs in said)
    messages: list[dict[str, Any]] = [
        {"role": ours, "content": f"{{{{ {column}[{index}][{_quoted(turns.content)}] }}}}"}
        for index, (ours, _) in enumerate(said)
    ]
    if turns.chosen:
        better, worse = (
            f"{{{{ {named(side)}[{_quoted(turns.content)}] }}}}" for side in (turns.chosen, turns.rejected)
        )
        messages.append({"role": "assistant", "content": better, "rejected": worse})
    when = f"{column} | map(attribute={_quoted(turns.role)}) | list == [{roles}]"
    return {"name": _form(system, count), "when": when, "messages": messages}


def _form(system: bool, count: int) -> str:
    return f"questions_{count // 2 + 1}" + ("_system" if system else "")


def _worked(turns: Turns, system: bool, count: int) -> dict[str, Any]:
    said, row, asked = _said_by(turns, system, count), [], 0
    for ours, theirs in said:
        asked += ours == "user"
        text = {"user": f"The {ORDINALS[asked - 1]} question?", "assistant": f"The {ORDINALS[asked - 1]} answer."}.get(
            ours
        )
        row.append({turns.role: theirs, turns.content: text or "Answer shortly."})
    example: dict[str, Any] = {
        "task": _form(system, count),
        "row": {turns.column: row},
        "answer": row[-1][turns.content],
    }
    if turns.chosen:
        for side, text in ((turns.chosen, "The answer."), (turns.rejected, "A worse answer.")):
            example["row"][side] = {turns.role: turns.assistant, turns.content: text}
        example |= {"answer": "The answer.", "rejected": "A worse answer."}
    if turns.label:
        example["row"][turns.label] = True
        example["label"] = True
    return example


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _literal(text: str) -> str:
    """Text that stands for itself in Jinja."""
    return f"{{% raw %}}{text}{{% endraw %}}" if "{" in text else text


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(
    name: str, about: str, columns: dict[str, Any], body: dict[str, Any], examples: Sequence[dict[str, Any]]
) -> str:
    whole = {"name": name, "description": about, "columns": columns, **body}
    if not any(message["role"] == "text" for message in body.get("messages", ())):
        whole["metric"] = {"name": "exact_match"}
    return yaml.dump(
        whole | {"examples": list(examples)}, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=110
    )
