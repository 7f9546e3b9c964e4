"""Tool calls in a model's text, read back from the forms in which chat templates write them. Pure functions of text.

A form is what one family of chat templates writes around a name and its arguments. Whether a tokenizer's template writes
one of them is learnt from a render, so a template that writes another is refused before anything is trained.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from finetune.data.rows import Sample
from finetune.data.template import Metric
from finetune.data.toolschema import calls_text
from finetune.errors import DataError

Call = dict[str, Any]  # name, arguments
Tools = Sequence[dict[str, Any]]


class NotACallError(ValueError):
    """What stands where a call should be is none."""


def read_calls(text: str, tools: Tools = ()) -> tuple[str, list[Call]]:
    """What is said before the calls, and the calls; none where the text holds none that are well-formed.

    Args:
        text: a model's answer with its special tokens but without the stop token, or canonical text (`calls_text`).
        tools: their schemas tell text from numbers in the forms that write both alike (XML).
    """
    for mark, read in FORMS.values():
        if found := re.search(mark, text, re.DOTALL):
            try:
                calls = read(text[found.start() :].strip(), tools)
                if calls and all(isinstance(c["name"], str) and isinstance(c["arguments"], dict) for c in calls):
                    return text[: found.start()].strip(), calls
            except (ValueError, LookupError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
    return text.strip(), []


def answer_text(raw: str, plain: str, tools: Tools) -> str:
    """An answer as metrics and golden samples have it: its calls in canonical form, where it has any, else `plain`.

    Args:
        raw: with special tokens, which may mark the calls; `plain`: without.
    """
    said, calls = read_calls(raw, tools)
    return "\n".join(filter(None, [said, calls_text(calls)])) if calls else plain


def _call(item: Any) -> Call:
    function = item.get("function", item)
    arguments = function.get("arguments", function.get("parameters", {}))
    return {"name": function["name"], "arguments": json.loads(arguments) if isinstance(arguments, str) else arguments}


def _inside(text: str, open_: str, close: str) -> list[str]:
    """What stands between the marks, which must be all of the text but for white space and control tokens after it."""
    pattern = f"{open_}(.*?){close}"
    rest = re.sub(r"<\|[^|<>]*\|>|</s>", "", re.sub(pattern, "", text, flags=re.DOTALL)).strip()
    if rest:
        raise NotACallError(rest)
    return re.findall(pattern, text, re.DOTALL)


def _json_list(text: str, tools: Tools) -> list[Call]:
    """`[{"name": .., "arguments": ..}]` or one such object, as canonical text, Llama 3 (`parameters`) and others write."""
    bare = re.sub(r"^<\|python_tag\|>|(<\|[^|<>]*\|>|</s>)+$", "", text.strip()).strip()
    items = json.loads(bare)
    return [_call(item) for item in (items if isinstance(items, list) else [items])]


def _hermes(text: str, tools: Tools) -> list[Call]:
    """`<tool_call>{..}</tool_call>`: Hermes, Qwen 2.5 and 3."""
    return [_call(json.loads(part)) for part in _inside(text, "<tool_call>", "</tool_call>")]


def _xml(text: str, tools: Tools) -> list[Call]:
    """`<tool_call><function=f><parameter=x>..`: Qwen 3 Coder, 3.5, 3.6, Nemotron 3."""
    calls = []
    for part in _inside(text, "<tool_call>", "</tool_call>"):
        ((name, body),) = re.findall(r"^\s*<function=([^>]+)>(.*)</function>\s*$", part, re.DOTALL)
        given = re.findall(r"<parameter=([^>]+)>\n?(.*?)\n?</parameter>", body, re.DOTALL)
        calls.append({"name": name, "arguments": {key: _typed(value, name, key, tools) for key, value in given}})
    return calls


def _glm(text: str, tools: Tools) -> list[Call]:
    """`<tool_call>f<arg_key>x</arg_key><arg_value>..`: GLM 4.5 on."""
    calls = []
    for part in _inside(text, "<tool_call>", "</tool_call>"):
        name, _, body = part.strip().partition("<arg_key>")
        pattern = r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>"
        if not re.fullmatch(r"[\w.-]+\s*", name) or (body and not re.match(pattern, "<arg_key>" + body, re.DOTALL)):
            raise NotACallError(part)
        given = re.findall(pattern, "<arg_key>" + body, re.DOTALL)
        found = {key: _typed(value, name.strip(), key, tools) for key, value in given}
        calls.append({"name": name.strip(), "arguments": found})
    return calls


def _mistral(text: str, tools: Tools) -> list[Call]:
    """`[TOOL_CALLS][{..}]`, and `[TOOL_CALLS]f[ARGS]{..}` of later versions."""
    parts = [part.strip() for part in text.removesuffix("</s>").split("[TOOL_CALLS]")[1:]]
    if len(parts) == 1 and parts[0].startswith("["):
        return [_call(item) for item in json.loads(parts[0])]
    calls = []
    for part in parts:
        ((name, body),) = re.findall(r"^([\w.-]+)(?:\[CALL_ID\]\w+)?\[ARGS\](.*)$", part, re.DOTALL)
        calls.append({"name": name, "arguments": json.loads(body)})
    return calls


def _deepseek(text: str, tools: Tools) -> list[Call]:
    """`<｜tool▁call▁begin｜>function<｜tool▁sep｜>f` and arguments in a block of JSON: DeepSeek V3, R1."""
    found = re.findall(
        r"<｜tool▁call▁begin｜>function<｜tool▁sep｜>([\w.-]+)\n```json\n(.*?)\n```<｜tool▁call▁end｜>", text, re.DOTALL
    )
    return [{"name": name, "arguments": json.loads(body)} for name, body in found]


def _harmony(text: str, tools: Tools) -> list[Call]:
    """`to=functions.f<|channel|>commentary json<|message|>{..}`: gpt-oss."""
    ((name, body),) = re.findall(
        r"^to=functions\.([\w.-]+).*?<\|message\|>(.*?)(?:<\|call\|>|<\|end\|>)?$", text, re.DOTALL
    )
    return [{"name": name, "arguments": json.loads(body)}]


def _python(text: str, tools: Tools) -> list[Call]:
    """`<|tool_call_start|>[f(x=1)]<|tool_call_end|>`: LFM2."""
    calls = []
    for part in _inside(text, r"<\|tool_call_start\|>", r"<\|tool_call_end\|>"):
        tree = ast.parse(part.strip(), mode="eval").body
        for item in tree.elts if isinstance(tree, ast.List) else [tree]:
            if not isinstance(item, ast.Call) or item.args or not isinstance(item.func, ast.Name):
                raise NotACallError(part)
            given = {word.arg: ast.literal_eval(word.value) for word in item.keywords}
            calls.append({"name": item.func.id, "arguments": given})
    return calls


def _gemma(text: str, tools: Tools) -> list[Call]:
    """`<|tool_call>call:f{x:<|"|>a<|"|>,n:1}<tool_call|>`: Gemma 4."""
    calls = []
    for name, body in re.findall(r"<\|tool_call>call:([\w.-]+)(\{.*?\})<tool_call\|>", text, re.DOTALL):
        pieces = body.split('<|"|>')  # every second one is text
        pieces[1::2] = [json.dumps(piece) for piece in pieces[1::2]]
        pieces[::2] = [re.sub(r"([{,]\s*)([\w.-]+):", r'\1"\2":', piece) for piece in pieces[::2]]
        calls.append({"name": name, "arguments": json.loads("".join(pieces))})
    return calls


def _typed(text: str, name: str, key: str, tools: Tools) -> Any:
    """A value written without quotes: text where the schema says string, else JSON (or Python's True), else text."""
    schema = next((tool["function"].get("parameters") for tool in tools if tool["function"]["name"] == name), None)
    kinds = (((schema or {}).get("properties") or {}).get(key) or {}).get("type")
    if kinds == "string":
        return text
    try:
        return (
            {"True": True, "False": False, "None": None}[text]
            if text in ("True", "False", "None")
            else json.loads(text)
        )
    except ValueError:
        return text


# By name: what a call begins with, and its reader. `canonical` is calls_text's form, and Llama 3's.
FORMS: dict[str, tuple[str, Callable[[str, Tools], list[Call]]]] = {
    "hermes": (r"<tool_call>\s*\{", _hermes),
    "xml": (r"<tool_call>\s*<function=", _xml),
    "glm": (r"<tool_call>\s*[\w.-]+\s*<(?:arg_key|/tool_call)>", _glm),
    "mistral": (r"\[TOOL_CALLS\]", _mistral),
    "deepseek": (r"<｜tool▁calls▁begin｜>", _deepseek),
    "harmony": (r"to=functions\.", _harmony),
    "gemma": (r"<\|tool_call>call:", _gemma),
    "python": (r"<\|tool_call_start\|>", _python),
    "canonical": (r"(?:^|(?<=\n))(?:<\|python_tag\|>)?\s*(?:\[\s*)?\{\s*\"(?:name|type|function)\"", _json_list),
}

_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_call",
        "description": "d",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string"}, "n": {"type": "number"}, "list": {"type": "array"}},
        },
    },
}
_PROBE = {"name": "probe_call", "arguments": {"text": 'a "b" 7', "n": 1.5, "list": [1, "x"]}}


def check_readable(template: Any, samples: Iterable[Sample], metrics: Mapping[str, Metric]) -> None:
    """Raises DataError when samples want or score calls, and the chat template writes them in no form known here."""
    for sample in samples:
        if sample.messages[-1].get("tool_calls") or (sample.tools and metrics[sample.task].name == "tool_calls"):
            written = unreadable(template)
            if written is not None:
                raise DataError(
                    f"{sample.where}: answers may be tool calls, which the chat template of "
                    f"{template.tokenizer.name_or_path} writes in a form that can't be read back: {written!r}; known: "
                    + ", ".join(name for name in FORMS if name != "canonical") + ", json"
                )  # fmt: skip
            return


def unreadable(template: Any) -> str | None:
    """What a ChatTemplate writes for a call, where it can't be read back; None where it can."""
    from finetune.data.render import TemplateRefusalError

    call = {"id": "call00000", "type": "function", "function": _PROBE}
    asked = {"role": "user", "content": "what is asked"}
    messages = [template.prepared(m) for m in (asked, {"role": "assistant", "content": "", "tool_calls": [call]})]
    try:
        written = template.render(messages, [_PROBE_TOOL]).partition(asked["content"])[2]
    except TemplateRefusalError as error:
        return str(error)
    if read_calls(written, [_PROBE_TOOL])[1] == [_PROBE]:
        return None
    # As a model writes it: what its prompt ends with and the stop token are not part of the answer.
    answer = template.special.sub("\n", written)
    return None if read_calls(answer, [_PROBE_TOOL])[1] == [_PROBE] else written.strip()[-160:]
