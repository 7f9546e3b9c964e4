"""Scores of tool calls against those of the reference. Pure functions of text."""

from __future__ import annotations

from typing import Any

from finetune.data.template import Metric
from finetune.evaluate.callforms import Call, read_calls


def tool_calls(answer: str, reference: str, metric: Metric) -> dict[str, float]:
    """Calls against those of the reference, as a set (`metric.ordered`: in this order). Numbers are equal by value.

    Returns:
        `all_right`: calls where calls are wanted and then exactly those, none where none is wanted.
        `call_decision`: called or not called, as it should be.
        Of references that call: `valid_calls` (the answer has calls that can be read), `call_names` (share of the calls,
        of both sides, whose name is right) and `call_arguments` (share of the arguments, of both sides, that are right;
        those of a call without a counterpart are wrong).
    """
    given, wanted = read_calls(answer)[1], read_calls(reference)[1]
    decided = float(bool(given) == bool(wanted))
    if not wanted:
        return {"all_right": decided, "call_decision": decided}
    pairs = _paired(given, wanted, metric.ordered)
    most = max(len(given), len(wanted))
    same = sum(_right_arguments(one, other) for one, other in pairs)
    either = sum(len({*one["arguments"], *other["arguments"]}) for one, other in pairs)
    alone = [call for call in (*given, *wanted) if not any(call is one or call is other for one, other in pairs)]
    either += sum(len(call["arguments"]) for call in alone)
    named = len(pairs) / most
    arguments = same / either if either else named
    return {
        "all_right": float(named == 1.0 and arguments == 1.0),
        "call_decision": decided,
        "valid_calls": float(bool(given)),
        "call_names": named,
        "call_arguments": arguments,
    }


def equal(one: Any, other: Any) -> bool:
    """JSON values: numbers by value, truth only to truth, lists in order, objects in any."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def _paired(given: list[Call], wanted: list[Call], ordered: bool) -> list[tuple[Call, Call]]:
    """Calls of the same name: at the same place, or each wanted one with the best that is left."""
    if ordered:
        return [pair for pair in zip(given, wanted, strict=False) if pair[0]["name"] == pair[1]["name"]]
    pairs, left = [], list(given)
    # The whole matches first, so that they are not taken away by half ones.
    for call in sorted(wanted, key=lambda call: not any(_exact(one, call) for one in given)):
        same = [one for one in left if one["name"] == call["name"]]
        if same:
            best = max(same, key=lambda one: (_exact(one, call), _right_arguments(one, call)))
            left = [one for one in left if one is not best]
            pairs.append((best, call))
    return pairs


def _exact(one: Call, other: Call) -> bool:
    return one["name"] == other["name"] and equal(one["arguments"], other["arguments"])


def _right_arguments(one: Call, other: Call) -> int:
    mine, theirs = one["arguments"], other["arguments"]
    return sum(key in mine and equal(mine[key], value) for key, value in theirs.items())
