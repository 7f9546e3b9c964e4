"""Messages in OpenAI's shape, checked: keys, types, empty content, tool calls, and the order of the roles.

Every function takes a list and adds what is wrong to it, each as `column: what`, so that a row's problems come together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from finetune.data.rows import Message
from finetune.data.strictjson import MalformedError, strict_json
from finetune.data.toolschema import call_problems
from finetune.errors import did_you_mean

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
KEYS = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name", "train", "weight")
NOTES = ("id", "timestamp", "metadata")  # about a message, no part of it
WHITE = " \t\r\n\u3000"


def read_messages(value: Any, at: str, problems: list[str]) -> list[Message]:
    """Messages of a list (or of its JSON text), their order not yet checked. Empty when something is wrong."""
    items = read_json(value, at, problems)
    if not isinstance(items, list) or not items:
        if items is not None:
            problems.append(f"{at}: a list of messages is needed, got {brief(items)}")
        return []
    before = len(problems)
    messages = [_message(item, f"{at}[{index}]", problems) for index, item in enumerate(items)]
    return [] if len(problems) > before else messages


def read_json(value: Any, at: str, problems: list[str]) -> Any:
    """A value as it is, or what its JSON text holds (CSV and ShareGPT keep lists as text). None when it is wrong."""
    if value is None:
        problems.append(f"{at}: is null; a value is needed")
    if not isinstance(value, str):
        return value
    try:
        return strict_json(value)
    except MalformedError as error:
        problems.append(f"{at}: not JSON: {error}{f' (column {error.column})' if error.column else ''}")
        return None


def read_text(value: Any, at: str, problems: list[str], may_be_empty: bool = False) -> str:
    """Text as it is."""
    if not isinstance(value, str):
        problems.append(
            f"{at}: " + ("is null; text is needed" if value is None else f"text is needed, got {brief(value)}")
        )
        return ""
    if not may_be_empty and not value.strip(WHITE):
        problems.append(f"{at}: is empty")
    return value


def read_tools(value: Any, at: str, problems: list[str]) -> tuple[dict[str, Any], ...]:
    """Tool schemas in OpenAI's shape; a bare function schema is put into it. Null and empty text are no tools."""
    if value is None or value == "":
        return ()
    tools = read_json(value, at, problems)
    if not isinstance(tools, list):
        if tools is not None:
            problems.append(f"{at}: a list of tools is needed, got {brief(tools)}")
        return ()
    result = []
    for index, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            problems.append(f"{at}[{index}]: a function with a name is needed, got {brief(tool)}")
        elif "function" in tool:
            result.append({"type": "function"} | tool)
        else:
            result.append({"type": "function", "function": function})
    return tuple(result)


def read_calls(value: Any, at: str, problems: list[str]) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's shape, arguments exactly as given: an object, or the JSON text of one."""
    if not isinstance(value, list):
        problems.append(f"{at}: a list of tool calls is needed, got {brief(value)}")
        return []
    calls = []
    for index, call in enumerate(value):
        function = call.get("function", call) if isinstance(call, dict) else None
        where = f"{at}[{index}]"
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            problems.append(f"{where}: a function with a name and arguments is needed, got {brief(call)}")
            continue
        arguments = function.get("arguments")
        before = len(problems)
        parsed = read_json(arguments, f"{where}.arguments", problems)
        if len(problems) == before and not isinstance(parsed, dict):
            problems.append(f"{where}.arguments: an object is needed, got {brief(parsed)}")
        named = {"name": function["name"], "arguments": arguments}
        extra = {"id": call["id"]} if call.get("id") is not None else {}
        calls.append({**extra, "type": "function", "function": named})
    return calls


def check_order(
    messages: Sequence[Message], at: str, problems: list[str], tools: Sequence[dict[str, Any]] = ()
) -> None:
    """One system message at most, first; then user and assistant in turn, tool results after tool calls; the
    assistant last; some assistant message to train on; calls and results that name what exists."""
    if not messages:
        return
    start = 1 if messages[0]["role"] == "system" else 0
    if len(messages) == start or messages[start]["role"] != "user":
        problems.append(f"{at}: the first message after the system's must be the user's")
    for index, (before, message) in enumerate(pairwise(messages[start:]), start=start + 1):
        role, last = message["role"], before["role"]
        allowed = {"user": ("assistant",), "tool": ("assistant", "tool")}.get(
            last, ("tool",) if before.get("tool_calls") else ("user",)
        )
        if role not in allowed:
            follows = f"{last} with tool calls" if before.get("tool_calls") else last
            problems.append(f"{at}[{index}]: {role} follows {follows}; {' or '.join(allowed)} is needed")
    if messages[-1]["role"] != "assistant":
        problems.append(f"{at}: ends with {messages[-1]['role']}; the last message must be the assistant's")
    if not any(message["role"] == "assistant" and message.get("train", True) for message in messages):
        problems.append(f"{at}: no assistant message to train on")
    _check_calls(messages, at, problems, tools)


def check_arguments(messages: Sequence[Message], at: str, problems: list[str], tools: Sequence[dict[str, Any]]) -> None:
    """Arguments of calls as their tools' schemas want them; what `check_order` and `read_calls` say is not said again.

    Not for answers that are to be wrong: the worse one of a preference.
    """
    offered = {tool["function"]["name"] for tool in tools}
    for index, message in enumerate(messages):
        for call in message.get("tool_calls", ()):
            name, given = call["function"]["name"], call["function"]["arguments"]
            given = read_json(given, "", []) if isinstance(given, str) else given
            if name in offered and isinstance(given, dict):
                found = call_problems(name, given, tools, closed=False)
                problems += [f"{at}[{index}].tool_calls: {what}" for what in found]


def brief(value: Any) -> str:
    """A value in an error message, cut to forty characters."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _message(item: Any, at: str, problems: list[str]) -> Message:
    if not isinstance(item, dict):
        problems.append(f"{at}: an object with role and content is needed, got {brief(item)}")
        return {}
    item = {key: value for key, value in item.items() if value is not None and value not in ([], {})}
    for key in sorted(set(item) - {*KEYS, *NOTES}):
        problems.append(f"{at}.{key}: not a key of a message{did_you_mean(key, KEYS)}")
    given = item.get("role")
    role = ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        problems.append(
            f"{at}.role: " + ("is missing" if given is None else f"{brief(given)} is not a role")
            + did_you_mean(str(given), ROLES)
        )  # fmt: skip
    message: Message = {"role": role, "content": ""}
    if "tool_calls" in item:
        if role not in (None, "assistant"):
            problems.append(f"{at}.tool_calls: only the assistant calls tools, this is {role}")
        message["tool_calls"] = read_calls(item["tool_calls"], f"{at}.tool_calls", problems)
    if "content" in item or "tool_calls" not in item:
        empty = role == "tool" or "tool_calls" in item
        message["content"] = read_text(_parts(item.get("content"), at, problems), f"{at}.content", problems, empty)
    for key in ("reasoning_content", "tool_call_id", "name"):
        if key in item:
            message[key] = read_text(item[key], f"{at}.{key}", problems, may_be_empty=True)
    if not trained(item, at, problems):
        message["train"] = False
    return message


def _parts(content: Any, at: str, problems: list[str]) -> Any:
    """Text of a list of typed parts; other content as it is."""
    if not isinstance(content, list):
        return content
    texts = []
    for index, part in enumerate(content):
        text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else None
        if isinstance(text, str):
            texts.append(text)
        else:
            problems.append(f"{at}.content[{index}]: only parts of text can be trained on, got {brief(part)}")
            texts.append("?")
    return "".join(texts)


def trained(item: dict[str, Any], at: str, problems: list[str]) -> bool:
    """Whether the message is trained: `train` (true, false), or OpenAI's `weight` (0, 1)."""
    train, weight = item.get("train", True), item.get("weight", 1)
    if not isinstance(train, bool):
        problems.append(f"{at}.train: true or false is needed, got {brief(train)}")
    if isinstance(weight, bool) or weight not in (0, 1):
        problems.append(f"{at}.weight: 0 or 1 is needed, got {brief(weight)}")
    elif "train" in item and "weight" in item and train != bool(weight):
        problems.append(f"{at}: `train` and `weight` say different things")
    return bool(train) and weight != 0


def _check_calls(messages: Sequence[Message], at: str, problems: list[str], tools: Sequence[dict[str, Any]]) -> None:
    offered = [tool["function"]["name"] for tool in tools]
    open_ids: set[str] = set()
    for index, message in enumerate(messages):
        for call in message.get("tool_calls", ()):
            name = call["function"]["name"]
            if tools and name not in offered:
                problems.append(
                    f"{at}[{index}].tool_calls: {name!r} is not among the tools{did_you_mean(name, offered)}"
                )
            if "id" in call:
                open_ids.add(call["id"])
        result = message.get("tool_call_id")
        if result is not None and result not in open_ids:
            problems.append(f"{at}[{index}].tool_call_id: no call before it has the id {result!r}")
