"""A recipe in the making: what the peer's file says, what becomes of it, and what there is to tell about it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from finetune.errors import did_you_mean
from finetune.migrate.keys import KINDS, Key, as_kind

SLIP = 0.88  # from this likeness on, a key that is not known is one of the table's, misspelt
Why = Literal["lost", "changed", "idle"]


@dataclass(frozen=True)
class Given:
    """What a file says.

    Attributes:
        values: by key. where: `file:line` of each, for messages.
        processes: how many a launcher in it starts; None where it says nothing.
        stage: of a command line, the peer's command (`sft`, `dpo`, ...).
    """

    file: Path
    values: dict[str, Any]
    where: dict[str, str]
    processes: int | None = None
    stage: str | None = None


@dataclass(frozen=True)
class Note:
    """One thing to tell: `lost` has no equivalent, `changed` means something else here, `idle` is not needed here."""

    kind: Why
    what: str
    why: str
    instead: str = ""
    where: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" + (f"; nearest: {self.instead}" if self.instead else "")


@dataclass
class Draft:
    """What a peer's translation works on.

    Attributes:
        peer: the toolkit's name, for people.
        table: the peer's keys. output: the recipe's file.
        processes: that share a batch.
        recipe: the recipe's values by their whole key, as `train.learning_rate`; said: a comment beside each.
        files: data templates to be written, by name.
        problems: what can't be translated at all, each line with its place.
    """

    peer: str
    given: Given
    table: Mapping[str, Key]
    output: Path
    processes: int = 1
    recipe: dict[str, Any] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def take(self) -> None:
        """Everything that the table alone decides: kinds of values, same keys, lost and idle ones, unknown ones."""
        for key, value in self.given.values.items():
            row = self.table.get(key)
            if row is None:
                self._unknown(key, value)
                continue
            try:
                self.values[key] = as_kind(value, row.kind)
            except ValueError:
                self.problem(key, f"{KINDS[row.kind]} is needed, got {value!r}")
                continue
            if row.to and self.values[key] is not None:
                self.put(row.to, self.values[key], key)
            elif row.lost and not row.says_nothing(value):
                self.lost(key, row.lost, row.instead)
            elif row.idle and not row.says_nothing(value):
                self.idle(key, row.idle)

    def finish(self) -> None:
        """Keys that a translation would read and had no occasion to."""
        for key, value in self.values.items():
            row = self.table[key]
            if not (row.to or row.lost or row.idle) and key not in self.used and not row.says_nothing(value):
                self.idle(key, f"has no effect there beside the other settings of {self.peer}")

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, of its kind; the default where it is absent or null."""
        self.used.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def put(self, target: str, value: Any, key: str = "") -> None:
        """A value of the recipe. `key`: that of the peer which says it; none where it is the peer's default."""
        self.recipe[target] = value
        if key and self.values.get(key) is not None:
            own = target.rpartition(".")[2]
            self.said[target] = "" if key == own else key
        else:
            self.said[target] = f"default of {self.peer}"

    def write(self, target: str, value: Any, said: str = "") -> None:
        """A value of the recipe that no single key says, with a comment of its own."""
        self.recipe[target] = value
        self.said[target] = said

    def folders(self) -> list[Path]:
        """Where the peers' relative paths may start: the current folder, then the file's own."""
        return [Path(), self.given.file.parent]

    def place_of_model(self, name: str) -> str:
        """A model's name, or the folder of one that is there, from the recipe's own folder."""
        for folder in self.folders():
            if not Path(name).is_absolute() and (folder / name).is_dir():
                return Path(os.path.relpath((folder / name).resolve(), self.output.parent.resolve())).as_posix()
        return name

    def lost(self, key: str, why: str, instead: str = "") -> None:
        self.notes.append(Note("lost", self._shown(key), why, instead, self.where(key)))

    def changed(self, key: str, why: str) -> None:
        self.notes.append(Note("changed", self._shown(key), why, "", self.where(key)))

    def idle(self, key: str, why: str) -> None:
        self.notes.append(Note("idle", self._shown(key), why, "", self.where(key)))

    def problem(self, key: str, text: str) -> None:
        self.problems.append(f"{self.where(key)}: {key}: {text}")

    def where(self, key: str) -> str:
        return self.given.where.get(key) or self.given.where.get(key.partition(".")[0]) or str(self.given.file)

    def _shown(self, key: str) -> str:
        """`key: value`, the value short; the key alone where it is a default, or holds keys of its own."""
        value = self.given.values.get(key)
        if value is None or isinstance(value, dict | list):
            return key
        text = str(value).lower() if isinstance(value, bool) else " ".join(str(value).split())
        return f"{key}: {text if len(text) <= 40 else text[:37] + '...'}"

    def _unknown(self, key: str, value: Any) -> None:
        """A near spelling of a known key is a mistake; any other may be of a version that is not known here."""
        near = did_you_mean(key, self.table)
        if difflib.get_close_matches(key, self.table, n=1, cutoff=SLIP):
            self.problem(key, f"not a key of {self.peer}{near}")
        elif not Key().says_nothing(value):
            self.lost(key, f"is no key of {self.peer} that is known here{near if 'did you mean' in near else ''}")
