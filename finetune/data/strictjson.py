"""JSON Lines and JSON arrays as the standard has them: every malformed row by file, line and column."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from finetune.data.encoding import lines, whole_text
from finetune.data.findings import DataFile, Findings
from finetune.data.rows import Row

_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class MalformedError(ValueError):
    """What is wrong with a value, and the line and column within the text given where they are known."""

    def __init__(self, what: str, line: int = 1, column: int | None = None) -> None:
        super().__init__(what)
        self.line = line
        self.column = column


def read_jsonl(file: DataFile, encoding: str, findings: Findings) -> Iterator[Row]:
    """One object a line; blank lines are no rows."""
    for number, text in lines(file, encoding, findings):
        if text is None or text.isspace():
            findings.blank += text is not None
            continue
        try:
            values = strict_json(text.rstrip("\r\n"))
        except MalformedError as error:
            at = f"{number}:{error.column}" if error.column else f"{number}"
            if text.strip() in ("[", "{"):  # every further line would be a problem too
                findings.problem(f"{file.label}:{at}: one object a line is needed; for one JSON value say `kind: json`")
                return
            findings.problem(f"{file.label}:{at}: {error}")
            continue
        if isinstance(values, dict):
            yield Row(values, file.label, number)
        else:
            findings.problem(f"{file.label}:{number}: an object is needed, got {type(values).__name__}")


def read_json(file: DataFile, encoding: str, findings: Findings) -> Iterator[Row]:
    """An array of objects, or one object, which is one row."""
    text = whole_text(file, encoding, findings)
    if text is None or not text.strip(" \t\n\r"):
        return
    for line, found in _values(text):
        if isinstance(found, dict):
            yield Row(found, file.label, line)
        elif isinstance(found, MalformedError):
            at = f"{line}:{found.column}" if found.column else f"{line}"
            findings.problem(f"{file.label}:{at}: {found}")
        else:
            findings.problem(f"{file.label}:{line}: an object is needed, got {type(found).__name__}")


def strict_json(text: str) -> Any:
    """One value: no NaN, no number beyond a float, no duplicate key, nothing after it, no lone surrogate.

    Raises:
        MalformedError: what is wrong, with the column where it is known.
    """
    value, end = _decode(text, _space(text, 0))
    end = _space(text, end)
    if end != len(text):
        raise _malformed(text, end, "more follows after the value")
    return value


def _values(text: str) -> Iterator[tuple[int, Any]]:
    """Line and value (or MalformedError) of each element of a top-level array, or of the one value there is."""
    at = _space(text, 0)
    line, counted = 1, 0
    array = text[at] == "["
    at = _space(text, at + 1) if array else at
    while not (array and text[at : at + 1] == "]"):
        line, counted = line + text.count("\n", counted, at), at
        try:
            found, at = _decode(text, at)
            yield line, found
        except MalformedError as error:
            yield max(line, error.line), error
            try:
                at = _LENIENT.raw_decode(text, at)[1]  # the reading can go on behind a well-formed value
            except (ValueError, RecursionError):
                return
        at = _space(text, at)
        if not array or text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            wrong = _malformed(text, at, "',' or ']' is needed" if at < len(text) else "the array is never closed")
            yield wrong.line, wrong
            return
        comma, at = at, _space(text, at + 1)
        if text[at : at + 1] == "]":
            wrong = _malformed(text, comma, "a comma before the end of the array")
            yield wrong.line, wrong
            return
    end = _space(text, at + 1 if array else at)
    if end < len(text):
        wrong = _malformed(text, end, "more follows after the value")
        yield wrong.line, wrong


def _decode(text: str, at: int) -> tuple[Any, int]:
    try:
        value, end = _STRICT.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise MalformedError(error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise MalformedError("nested too deeply") from None
    except ValueError as error:
        raise MalformedError(str(error).split(";")[0]) from None
    if _SURROGATE.search(text, at, end):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise MalformedError("a lone surrogate (\\ud800 to \\udfff) is not text") from None
    return value, end


def _space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]


def _malformed(text: str, at: int, what: str) -> MalformedError:
    return MalformedError(what, text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key given twice: {next(key for key in keys if keys.count(key) > 1)!r}")
    return result


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is beyond the range of a number")
    return number


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
_LENIENT = json.JSONDecoder()
