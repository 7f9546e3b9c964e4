"""The keys of a template's `metric`: which one, and its settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from finetune.data.columns import Part

# Which metrics a setting is for; what is not listed is for all.
OWNERS = {
    "refusals": ("citations",),
    "cites": ("citations",),
    "ordered": ("tool_calls",),
    "form": ("entities", "relations"),
    "types": ("entities", "relations"),
    "nothing": ("entities", "relations"),
    "between": ("relations",),
    "value": ("program",),
    "table": ("program",),
    "kind": ("tatqa",),
}


class Metric(Part):
    """How an answer is scored: a name out of METRICS and its settings (OWNERS says which is for which).

    `refusals`: texts that say that there is no answer. `form`: one mention a line, or a JSON list of objects. `types`:
    which types count, empty for all. `nothing`: what an answer without a mention says. `between` a relation's two ends.
    Places in the record, as `column` or `column.key`: `value`, what a program must come to, `table`, what it may look at,
    and `kind`, of a question.
    """

    name: str
    separator: str = ": "
    tolerance: float = Field(0.0, ge=0)
    refusals: Annotated[tuple[str, ...], Field(strict=False)] = ()
    cites: Literal["numbers", "articles"] = "numbers"
    ordered: bool = False
    form: Literal["lines", "json"] = "lines"
    types: Annotated[tuple[str, ...], Field(strict=False)] = ()
    nothing: str = "none"
    between: str = " -> "
    value: str | None = None
    table: str | None = None
    kind: str | None = None

    @model_validator(mode="after")
    def settings_of_this_metric(self) -> Metric:
        for key, owners in OWNERS.items():
            if self.name not in owners and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"`{key}` is for metric {' and '.join(owners)}, this is {self.name}")
        if not all(any(map(str.isalnum, text)) for text in self.refusals):
            raise ValueError("`refusals` holds a text without a word")
        if self.name in ("entities", "relations"):
            self._mentions_can_be_read()
        return self

    @property
    def places(self) -> dict[str, str]:
        """What the metric asks of the record, and where it is."""
        places = {"value": self.value, "table": self.table, "kind": self.kind}
        return {key: place for key, place in places.items() if place}

    def _mentions_can_be_read(self) -> None:
        for key in ("separator", "between", "nothing"):
            if not getattr(self, key):
                raise ValueError(f"`{key}` is empty")
        for text in self.types:
            if not text.strip() or text != " ".join(text.split()) or self.types.count(text) > 1:
                raise ValueError(f"`types` holds {text!r}: empty, with white space around it, or twice")
            if self.form == "lines" and self.separator in text:
                raise ValueError(f"`types` holds {text!r}, in which the separator {self.separator!r} stands")
