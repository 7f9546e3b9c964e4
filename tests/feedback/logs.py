"""Log lines written by hand, and an import of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune.feedback.intake import Imported, import_logs
from finetune.feedback.settings import Settings


def said(question: str = "2+2?", answer: str = "4", **feedback: Any) -> dict[str, Any]:
    """A line with a request, a response and feedback."""
    return line([{"role": "user", "content": question}], [answer], feedback)


def line(
    messages: list[dict[str, Any]], answers: list[Any], feedback: Any, finish: str = "stop", **more: Any
) -> dict[str, Any]:
    """The same with any messages, several answers (text or a message), and further keys of the line or the request."""
    choices = [
        {"index": index, "message": {"role": "assistant", "content": answer} if isinstance(answer, str) else answer,
         "finish_reason": finish}
        for index, answer in enumerate(answers)
    ]  # fmt: skip
    request = {"model": "served", "messages": messages} | more.pop("request", {})
    response = {"object": "chat.completion", "model": "served", "choices": choices}
    return {"request": request, "response": response, "feedback": feedback, **more}


def write(folder: Path, lines: list[Any], name: str = "log.jsonl") -> str:
    """JSON Lines; text goes into the file as it is."""
    file = folder / name
    file.write_text(
        "".join(f"{x if isinstance(x, str) else json.dumps(x, ensure_ascii=False)}\n" for x in lines), encoding="utf-8"
    )
    return str(file)


def imported(folder: Path, lines: list[Any], **settings: Any) -> Imported:
    return import_logs([write(folder, lines)], Settings(**settings))


def values(result: Imported, file: str) -> list[dict[str, Any]]:
    return [item.values for item in result.made if item.file == f"{file}.jsonl"]


def left_out(result: Imported) -> list[tuple[int, str]]:
    """(line, reason) of what was left out, by line."""
    return sorted((int(item.where.rpartition(":")[2]), item.reason) for item in result.left_out)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
