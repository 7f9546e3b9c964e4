"""The keys of a template's `metric`: which one, and its settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from finetune.data.columns import Part

Normal = Literal["width", "case", "space", "punctuation", "traditional"]
Step = Literal["sum", "difference", "product", "ratio", "percent_change", "mean", "total", "count"]

# Which metrics a setting is for; what is not listed is for all.
OWNERS = {
    "refusals": ("citations", "unanswerable", "refusal"),
    "cites": ("citations",),
    "passages": ("citations",),
    "ordered": ("tool_calls",),
    "normalise": ("contains", "exact_match", "fields", "json", "label", "table", "unanswerable"),
    "percent": ("quantity",),
    "convert": ("quantity",),
    "date_order": ("date",),
    "labels": ("label",),
    "whole": ("label",),
    "confidence": ("label",),
    "json_schema": ("json",),
    "unordered": ("json",),
    "keys": ("table",),
    "form": ("entities", "relations"),
    "types": ("entities", "relations"),
    "nothing": ("entities", "relations"),
    "between": ("relations",),
    "value": ("program",),
    "table": ("program",),
    "kind": ("tatqa",),
}
NEEDED = {"label": "labels", "unanswerable": "refusals"}


def _with_synonyms(value: Any) -> Any:
    """A list of labels is short for labels without synonyms; one synonym need not be a list."""
    if isinstance(value, list | tuple):
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"{name!r} is not text; put it in quotes")
            if value.count(name) > 1:
                raise ValueError(f"{name!r} is given twice")
        return dict.fromkeys(value, ())
    if isinstance(value, dict):
        return {name: () if its is None else (its,) if isinstance(its, str) else its for name, its in value.items()}
    return value


def _inline(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(
            "give the JSON Schema itself, not a file's name (JSON is YAML: paste its text); "
            "the template goes into the bundle and must say all that a check needs"
        )
    return value


class Grounded(Part):
    """Whether the numbers of an answer come of what it was given (evaluate/support.py).

    `passage`: what they may come of, the whole prompt or the user's messages. `steps`: what may have been done to its numbers,
    once, without showing the working; `within`: to any two of them, or to two of one line. `known`: numbers that an answer may
    say without the passage (0, a limit that a regulation has). `skip`: names of fields, or keys of JSON, whose numbers are not
    looked at. `decimals`: numbers are taken as written to so many, for templates that write 8.0 as 8. `any_scale`: 860 for
    860万元 even where a unit is named.
    """

    passage: Literal["prompt", "user"] = "prompt"
    steps: Annotated[tuple[Step, ...], Field(strict=False)] = ()
    within: Literal["passage", "line"] = "passage"
    known: Annotated[tuple[float, ...], Field(strict=False)] = ()
    skip: Annotated[tuple[str, ...], Field(strict=False)] = ()
    decimals: int = Field(0, ge=0, le=6)
    any_scale: bool = False


class Metric(Part):
    """How an answer is scored: a name out of METRICS and its settings (OWNERS says which is for which).

    `refusals`: texts that say that there is no answer, or that none will be given. `labels`: each with its synonyms.
    `normalise`: what is no difference between two texts. `json_schema` is written `schema` in a template, where pydantic
    has that name. `form`: one mention a line, or a JSON list of objects. `types`: which types count, empty for all.
    `nothing`: what an answer without a mention says. `between` a relation's two ends. Places in the record, as `column` or
    `column.key`: `value`, what a program must come to, `table`, what it may look at, and `kind`, of a question;
    `passages`, which citations number. `grounded`: the answer's numbers against the passage, beside the metric's scores.
    """

    name: str
    separator: str = ": "
    tolerance: float = Field(0.0, ge=0)
    refusals: Annotated[tuple[str, ...], Field(strict=False)] = ()
    cites: Literal["numbers", "articles"] = "numbers"
    ordered: bool = False
    normalise: Annotated[tuple[Normal, ...], Field(strict=False)] = ()
    percent: bool = False
    convert: bool = False
    date_order: Literal["day_first", "month_first"] | None = None
    labels: Annotated[dict[str, Annotated[tuple[str, ...], Field(strict=False)]], BeforeValidator(_with_synonyms)] = (
        Field(default={})
    )
    whole: bool = False
    confidence: bool = False
    json_schema: Annotated[dict[str, Any] | None, BeforeValidator(_inline)] = Field(
        default=None, validation_alias=AliasChoices("schema", "json_schema")
    )
    unordered: bool = False
    keys: Annotated[tuple[str, ...], Field(strict=False)] = ()
    form: Literal["lines", "json"] = "lines"
    types: Annotated[tuple[str, ...], Field(strict=False)] = ()
    nothing: str = "none"
    between: str = " -> "
    value: str | None = None
    table: str | None = None
    kind: str | None = None
    passages: str | None = None
    grounded: Grounded | None = None

    @model_validator(mode="after")
    def settings_of_this_metric(self) -> Metric:
        for key, owners in OWNERS.items():
            if self.name not in owners and getattr(self, key) != type(self).model_fields[key].default:
                said = key.removeprefix("json_")
                raise ValueError(f"`{said}` is for metric {' and '.join(owners)}, this is {self.name}")
        needed = NEEDED.get(self.name)
        if needed and not getattr(self, needed):
            raise ValueError(f"metric {self.name} needs `{needed}`")
        if not all(any(map(str.isalnum, text)) for text in self.refusals):
            raise ValueError("`refusals` holds a text without a word")
        for text in (name for label, synonyms in self.labels.items() for name in (label, *synonyms)):
            if not any(map(str.isalnum, text)):
                raise ValueError("`labels` holds a text without a word")
        if self.name in ("entities", "relations"):
            self._mentions_can_be_read()
        return self

    @property
    def places(self) -> dict[str, str]:
        """What the metric asks of the record, and where it is."""
        places = {"value": self.value, "table": self.table, "kind": self.kind}
        return {key: place for key, place in places.items() if place}

    @property
    def named_columns(self) -> dict[str, str]:
        """All settings that name a place in the record: `places`, and what scores beside the metric's own look at."""
        return self.places | ({"passages": self.passages} if self.passages else {})

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of the scores that evaluate/support.py gives beside the metric's own."""
        numbers = ("numbers_supported", "no_number_made_up") if self.grounded else ()
        return (*numbers, *(("citation_support",) if self.passages else ()))

    def _mentions_can_be_read(self) -> None:
        for key in ("separator", "between", "nothing"):
            if not getattr(self, key):
                raise ValueError(f"`{key}` is empty")
        for text in self.types:
            if not text.strip() or text != " ".join(text.split()) or self.types.count(text) > 1:
                raise ValueError(f"`types` holds {text!r}: empty, with white space around it, or twice")
            if self.form == "lines" and self.separator in text:
                raise ValueError(f"`types` holds {text!r}, in which the separator {self.separator!r} stands")
