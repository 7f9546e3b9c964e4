"""A log line as request, response and feedback: the shapes that logs have, told by their keys.

The bodies are those of OpenAI's chat completions; `custom_id` with `body` is a line of a batch's input, `custom_id` with
`response.body` one of its output; `messages` beside `response` is LiteLLM's logging payload.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.data.conversation import brief, read_json
from finetune.data.rows import Row
from finetune.errors import did_you_mean
from finetune.feedback.log import STREAM, LeftOut

JUDGED_BY = ("rating", "correction")
FEEDBACK = (*JUDGED_BY, "comment", "choice", "by", "user", "user_id", "created")
CHUNK = "chat.completion.chunk"


@dataclass(frozen=True)
class Judgement:
    """What somebody said of an answer, and `file:line` where it stands."""

    values: dict[str, Any]
    where: str


@dataclass(frozen=True)
class Exchange:
    """What a line holds, any part of it None where it has none.

    Attributes:
        request, response: the bodies.
        flat: the line is a conversation that ends with the answer.
        feedback: judgements, in their order.
        failed: why there is no response.
        ids: what other lines may call it by.
    """

    row: Row
    request: dict[str, Any] | None = None
    response: dict[str, Any] | None = None
    flat: bool = False
    feedback: tuple[Judgement, ...] = ()
    failed: str = ""
    ids: tuple[str, ...] = ()

    @property
    def has_answer(self) -> bool:
        return self.flat or self.response is not None or bool(self.failed)


def read_exchange(row: Row, problems: list[str]) -> Exchange:
    """The parts of a line; what is wrong with it is added to the problems as `key: what`."""
    values = row.values
    if values.get("object") == CHUNK or _streamed(values):
        problems.append(STREAM)
        return Exchange(row)
    feedback = tuple(Judgement(item, row.where) for item in _feedback(values, problems))
    asked, body = values.get("request"), values.get("body")
    request = _object(asked if asked is not None else body, "request" if asked is not None else "body", problems)
    request = _body(request)
    response, failed = _response(values, problems)
    flat = False
    if request is None and "messages" in values:
        request, flat = values, response is None and not failed
    if request is None and response is None and not failed and not feedback:
        keys = ", ".join(map(str, values)) or "none"
        problems.append(
            f"no log line: the keys are {keys}; needed are request and response, or messages{_near(values)}"
        )
    named = (values.get("id"), values.get("custom_id"), (response or {}).get("id"))
    ids = tuple(dict.fromkeys(str(name) for name in named if isinstance(name, str | int) and name != ""))
    return Exchange(row, request, response, flat, feedback, failed, ids)


def join(exchanges: Sequence[Exchange], left_out: list[LeftOut]) -> tuple[list[Exchange], int]:
    """Every answer with its request and all that was said of it, whatever lines these stood on.

    A batch's answers find their requests by `custom_id`, judgements on lines of their own the answer by its id. What
    finds nothing is left out.

    Returns:
        The exchanges with answers, and the number of lines that went into others.
    """
    answers = [exchange for exchange in exchanges if exchange.has_answer]
    known = Counter(name for exchange in answers for name in exchange.ids)
    requests: dict[str, Exchange] = {}
    judged: defaultdict[str, list[Judgement]] = defaultdict(list)
    joined = 0
    for other in (exchange for exchange in exchanges if not exchange.has_answer):
        name = next((name for name in other.ids if name in known), None)
        if name is None or (other.request is not None and name in requests):
            twice = "a second request of this id" if name else "no response has its id"
            what = "no id" if not other.ids else twice
            left_out.append(LeftOut(other.row.where, "no_response", what))
            continue
        if known[name] > 1 and other.feedback:
            left_out.append(LeftOut(other.row.where, "which_choice", f"{known[name]} responses have its id"))
            continue
        joined += 1
        judged[name] += other.feedback
        if other.request is not None:
            requests[name] = other
    return [_joined(exchange, requests, judged) for exchange in answers], joined


def _joined(exchange: Exchange, requests: dict[str, Exchange], judged: dict[str, list[Judgement]]) -> Exchange:
    found = next((requests[name] for name in exchange.ids if name in requests), None)
    more = [item for name in exchange.ids for item in judged.get(name, ())]
    request = exchange.request if exchange.request is not None else found.request if found else None
    return replace(exchange, request=request, feedback=(*exchange.feedback, *more))


def _feedback(values: dict[str, Any], problems: list[str]) -> tuple[dict[str, Any], ...]:
    """Judgements under `feedback` (one, or a list of them), or beside the messages."""
    given = values.get("feedback")
    if given is None or given == "":
        beside = {key: values[key] for key in FEEDBACK if key in values}
        return (beside,) if any(beside.get(key) not in (None, "") for key in JUDGED_BY) else ()
    items = given if isinstance(given, list) else [given]
    found = []
    for index, item in enumerate(items):
        at = f"feedback[{index}]" if isinstance(given, list) else "feedback"
        if not isinstance(item, dict):
            problems.append(f"{at}: an object with rating or correction is needed, got {brief(item)}")
        elif item and not item.keys() & set(FEEDBACK):
            key = str(next(iter(item)))
            problems.append(f"{at}.{key}: neither rating nor correction{did_you_mean(key, JUDGED_BY)}")
        else:
            found.append(item)
    return tuple(found)


def _response(values: dict[str, Any], problems: list[str]) -> tuple[dict[str, Any] | None, str]:
    """The body of the response, and why there is none where the request failed."""
    given = values.get("response")
    if given is None and "choices" in values:  # a response and nothing around it
        given = {key: values[key] for key in values if key != "feedback"}
    if isinstance(given, list) or (isinstance(given, str) and given.lstrip().startswith("data:")):
        problems.append(f"response: {STREAM}")
        return None, ""
    if values.get("error"):
        return None, "error"
    response = _object(given, "response", problems)
    if response is None:
        return None, ""
    status = response.get("status_code", values.get("status_code", 200))
    if response.get("error") or status not in (200, None):
        return None, "error" if status in (200, None) else f"status {brief(status)}"
    response = _body(response) or {}
    if response.get("object") == CHUNK or _streamed(response):
        problems.append(f"response: {STREAM}")
        return None, ""
    return (None, "error") if response.get("error") else (response, "")


def _object(value: Any, at: str, problems: list[str]) -> dict[str, Any] | None:
    """An object, or the JSON text of one; None and empty text are none."""
    if value is None or value == "":
        return None
    found = read_json(value, at, problems) if isinstance(value, str) else value
    if found is not None and not isinstance(found, dict):
        problems.append(f"{at}: an object is needed, got {brief(found)}")
    return found if isinstance(found, dict) else None


def _body(value: dict[str, Any] | None) -> dict[str, Any] | None:
    return value["body"] if value and isinstance(value.get("body"), dict) else value


def _streamed(values: dict[str, Any]) -> bool:
    choices = values.get("choices")
    return isinstance(choices, list) and any(isinstance(item, dict) and "delta" in item for item in choices)


def _near(values: dict[str, Any]) -> str:
    known = ("request", "response", "messages", "feedback")
    found = (did_you_mean(str(key), known) for key in values)
    return next((text for text in found if text.startswith("; did you mean")), "")
