"""run_state.json: how a run ended or that it goes on, for schedulers that see only a launcher's exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

from finetune.checkpoint.disk import replace_file
from finetune.errors import CheckpointError

Status = Literal["running", "preempted", "finished", "failed"]
NAME = "run_state.json"


def write_run_state(folder: Path, status: Status, step: int, **facts: Any) -> None:
    """`{"status": ..., "step": ..., **facts}` into the folder, which exists; whole or not at all.

    Raises:
        OSError: it can't be written; what was there is there.
    """
    if status not in get_args(Status):
        raise ValueError(f"status {status!r}; allowed: {', '.join(get_args(Status))}")
    replace_file(folder / NAME, json.dumps({"status": status, "step": step} | facts, indent=1) + "\n")


def read_run_state(folder: Path) -> dict[str, Any] | None:
    """What `write_run_state` wrote last; None when there is none.

    Raises:
        CheckpointError: it is no such file.
    """
    file = folder / NAME
    try:
        if file.is_symlink():
            raise CheckpointError(f"{file}: a symbolic link")
        state = json.loads(file.read_text(encoding="utf-8"))
        if state["status"] not in get_args(Status) or not isinstance(state["step"], int):
            raise ValueError
        return state
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError):
        raise CheckpointError(f"{file}: damaged; it holds no status and step") from None
