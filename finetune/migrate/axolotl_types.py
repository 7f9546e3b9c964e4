"""Axolotl's prompt strategies (`type` of a set) as formats of ready rows or data templates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from finetune.migrate.datatemplate import Columns, Turns, named, of_columns, of_text, of_turns
from finetune.migrate.draft import Draft
from finetune.migrate.sources import Rows, first_rows

DOCUMENTS = ("completion", "pretrain")
PLAIN = "the wording around the fields is Alpaca's own there (### Instruction: ...); here they are turns of the chat template"
FIXED = "its own chat wording there; here the tokenizer's chat template writes the turns"


class Asked(NamedTuple):
    """Columns of a question; `inside`: the answers are whole conversations, whose last turn counts."""

    question: str
    chosen: str = "chosen"
    rejected: str = "rejected"
    inside: bool = False


# Types `chatml.X`, `llama3.X`, `zephyr.X` of preferences and of labelled answers.
PAIRS = {
    "intel": Asked("question"), "icr": Asked("input"), "prompt_pairs": Asked("prompt"), "nectar": Asked("prompt"),
    "argilla": Asked("instruction", "chosen_response", "rejected_response"), "ultra": Asked("prompt", inside=True),
    "default": Asked("prompt"),
}  # fmt: skip
LABELLED = {"intel": "question", "argilla": "instruction", "prompt_pairs": "prompt", "ultra": "prompt"}


def of_documents(rows: Rows, one: Mapping[str, Any], column: str) -> Rows:
    return (
        replace(rows, format="text")
        if column == "text"
        else replace(rows, template=of_text("documents", str(one["path"]), column))
    )


def shaped(draft: Draft, rows: Rows, one: Mapping[str, Any], key: str, stage: str) -> Rows:
    kind, origin = one.get("type"), str(one["path"])
    if isinstance(kind, dict):
        return _own_words(draft, rows, kind, key, origin)
    name, _, style = str(kind or "").partition(":")
    if name in DOCUMENTS:
        return of_documents(rows, one, style or str(one.get("field") or "text"))
    if stage in ("dpo", "orpo", "simpo", "reward"):
        return _pairs(draft, rows, one, name, key, origin)
    if stage == "kto":
        return _labelled(draft, rows, name, key, origin)
    if name in ("alpaca", "alpaca_chat", "alpaca_w_system", "alpaca_instruct"):
        draft.changed(key, f"{origin}: type {kind}: {PLAIN}")
        return replace(rows, format="alpaca")
    if name in ("chat_template", "chat_template.default", "sharegpt", "messages.chat", "chatml"):
        return _turns(draft, rows, one, name, key, origin)
    draft.lost(key, f"{origin}: type {kind}: is not read here", "data.format: auto, or finetune new template")
    return rows


def _turns(draft: Draft, rows: Rows, one: Mapping[str, Any], name: str, key: str, origin: str) -> Rows:
    shape = _shape(one, "conversations" if name == "sharegpt" else "messages")
    if name == "sharegpt" and not (one.get("message_field_role") or one.get("message_property_mappings")):
        shape = replace(shape, role="from", content="value", user="human", assistant="gpt")
    if one.get("field_tools") not in (None, "tools"):
        draft.lost(key, f"{origin}: field_tools: {one['field_tools']}", "a column `tools`")
    own_roles = one.get("roles") and (shape.user, shape.assistant) not in (("user", "assistant"), ("human", "gpt"))
    if not own_roles and (shape.column, shape.role, shape.content) == ("conversations", "from", "value"):
        return replace(rows, format="sharegpt")
    plain = (shape.user, shape.assistant) == ("user", "assistant")
    if plain and shape.column in ("messages", "conversations") and (shape.role, shape.content) == ("role", "content"):
        return replace(rows, format="messages")
    draft.changed(
        key, f"{origin}: conversations of up to four questions are taken, those with more or with tools left out"
    )
    return replace(rows, template=of_turns("conversations", origin, shape))


def _shape(one: Mapping[str, Any], column: str) -> Turns:
    """Keys of a turn, and the first word that stands for each role."""
    keys = one.get("message_property_mappings") or {}
    roles = one.get("roles") or {}
    role = str(keys.get("role") or one.get("message_field_role") or "role")
    usual = ("human", "gpt") if role == "from" else ("user", "assistant")
    first = {ours: _first(roles.get(ours), theirs) for ours, theirs in zip(("user", "assistant"), usual, strict=True)}
    return Turns(
        str(one.get("field_messages") or column), role,
        str(keys.get("content") or one.get("message_field_content") or "content"),
        first["user"], first["assistant"], _first(roles.get("system"), "system"),
    )  # fmt: skip


def _first(words: Any, usual: str) -> str:
    return usual if not words or usual in words else str(words[0] if isinstance(words, list) else words)


def _pairs(draft: Draft, rows: Rows, one: Mapping[str, Any], name: str, key: str, origin: str) -> Rows:
    if name in ("chat_template.default", "chat_template") and draft.recipe["stage"] == "dpo":
        shape = _shape(one, "messages")
        sides = [
            str(one.get(word) or usual) for word, usual in (("field_chosen", "chosen"), ("field_rejected", "rejected"))
        ]
        draft.changed(
            key, f"{origin}: prompts of up to four questions are taken, those with more left out; an answer is one turn"
        )
        whole = replace(shape, chosen=sides[0], rejected=sides[1])
        return replace(rows, template=of_turns("preferences", origin, whole))
    if name.endswith((".argilla_chat", ".argilla")) and "chat" in name:
        return replace(rows, format="preference")
    _, _, variant = name.partition(".")
    if name == "bradley_terry.chat_template":
        asked = Asked("input")
    elif variant in PAIRS and name.startswith(("chatml.", "llama3.", "zephyr.")):
        asked = PAIRS[variant]
        draft.changed(key, f"{origin}: type {name}: {FIXED}")
    elif not name:
        return replace(rows, format="preference")
    else:
        draft.lost(
            key,
            f"{origin}: type {name}: is not read here",
            "data.format: preference, or a data template with `rejected`",
        )
        return replace(rows, format="preference")
    columns = Columns(
        asked.question, system=_system(draft, rows, key, origin), chosen=asked.chosen, rejected=asked.rejected,
        whole=asked.inside,
    )  # fmt: skip
    return replace(rows, template=of_columns("preferences", origin, columns))


def _labelled(draft: Draft, rows: Rows, name: str, key: str, origin: str) -> Rows:
    variant = name.partition(".")[2]
    if variant not in LABELLED:
        if name:
            draft.lost(
                key,
                f"{origin}: type {name}: is not read here",
                "data.format: labelled, or a data template with `label`",
            )
        return replace(rows, format="labelled")
    draft.changed(key, f"{origin}: type {name}: {FIXED}")
    shape = Columns(LABELLED[variant], "completion", system=_system(draft, rows, key, origin), label="label")
    return replace(rows, template=of_columns("labelled", origin, shape))


def _system(draft: Draft, rows: Rows, key: str, origin: str) -> str | None:
    """`system`, where the rows on this machine have it; told where they can't be looked at."""
    first = first_rows(rows.file)
    if not first:
        draft.changed(
            key, f"{origin}: a column `system` would be taken there; the template has none: add it if the rows have"
        )
        return None
    return "system" if any("system" in row.values for row in first) else None


def _own_words(draft: Draft, rows: Rows, kind: Mapping[str, Any], key: str, origin: str) -> Rows:
    """A prompt of the user's own: its formats become the user's turn."""
    if any(
        word in kind for word in ("field_chosen", "field_rejected", "field_prompt", "field_completion", "field_label")
    ):
        shape = Columns(str(kind.get("field_prompt") or "prompt"))
        if draft.recipe["stage"] == "kto":
            shape = replace(
                shape,
                answer=str(kind.get("field_completion") or "completion"),
                label=str(kind.get("field_label") or "label"),
            )
        else:
            sides = [str(kind.get(f"field_{side}") or side) for side in ("chosen", "rejected")]
            shape = replace(shape, chosen=sides[0], rejected=sides[1])
        if any(str(word).endswith("_format") for word in kind):
            draft.lost(key, f"{origin}: formats of prompt and answers", "Jinja in the data template beside the recipe")
        return replace(rows, template=of_columns("rows", origin, shape))
    question, more, answer = (str(kind.get(f"field_{w}") or w) for w in ("instruction", "input", "output"))
    first = first_rows(rows.file)
    has_more = any(more in row.values for row in first) if first else "field_input" in kind
    with_more = str(kind.get("format") or "{instruction} {input} ")
    without = str(kind.get("no_input_format") or "{instruction} ")
    wording = _wording(without, question, more)
    if has_more:
        wording = f"{{% if {named(more)} %}}{_wording(with_more, question, more)}{{% else %}}{wording}{{% endif %}}"
    draft.changed(
        key, f"{origin}: the formats of its type are the user's turn here, within the tokenizer's chat template"
    )
    columns = Columns(
        question, answer, more if has_more else None, fixed=str(kind.get("system_prompt") or ""), wording=wording
    )
    return replace(rows, template=of_columns("rows", origin, columns))


def _wording(text: str, question: str, more: str) -> str:
    """A Python format string as Jinja; line breaks as values, so that a line after a tag is not lost."""
    fields = {"{instruction}": f"{{{{ {named(question)} }}}}", "{input}": f"{{{{ {named(more)} }}}}"}
    parts = re.split(r"(\{instruction\}|\{input\}|\n)", text)
    return "".join(
        fields.get(part) or ('{{ "\\n" }}' if part == "\n" else part.replace("{{", "{").replace("}}", "}"))
        for part in parts
    )
