"""The section of the data: where rows come from, which are held out, what is looked for, and how they become ids."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from finetune.recipe_stages import Section

Format = Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "preference", "labelled", "text"]


class SplitSection(Section):
    """Held-out rows taken from the training files; `by` keeps all rows with the same value on one side."""

    eval_rows: int | None = Field(None, ge=1)
    by: str | None = None
    time_column: str | None = None
    train_before: str | None = None

    @model_validator(mode="after")
    def by_count_or_by_time(self) -> SplitSection:
        if (self.time_column is None) != (self.train_before is None):
            raise ValueError("`time_column` and `train_before` go together")
        if (self.eval_rows is None) == (self.time_column is None):
            raise ValueError("give either `eval_rows`, or `time_column` with `train_before`")
        return self


class SourceSection(Section):
    """Where rows come from. A plain string in the recipe stands for `{path: ...}`.

    `path` is a file, a folder or a glob; `hub` is `name@revision` of a hub dataset (or a local copy of one), with
    `subset` and `split`. `header` names the first column of the header line when a preamble stands before it,
    `delimiter` what stands between the cells of a CSV file. `explode` names a column of lists: each row becomes one for
    each item of its list, the other columns as they are. `weight` is this source's share of the drawn rows, `repeat`
    how many times each of its rows is used. With `hold_out: false` none of its rows is held out by `data.split`: those
    held out stay the same ones when such a source is added.
    """

    path: str | None = None
    hub: str | None = None
    subset: str | None = None
    split: str | None = None
    kind: Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "excel", "text"] = "auto"
    format: Literal["template"] | Format | None = None
    encoding: str = "auto"
    header: str | None = None
    delimiter: str | None = Field(None, pattern=r'^[^0-9A-Za-z"\r\n]$')
    sheet: str | None = None
    explode: str | None = None
    weight: float | None = Field(None, gt=0)
    repeat: int = Field(1, ge=1)
    hold_out: bool = True
    licence: str | None = None
    provenance: str | None = None

    @model_validator(mode="after")
    def one_place(self) -> SourceSection:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of `path` and `hub`")
        return self


Policy = Literal["drop", "error", "report", "off"]


class ScreenSection(Section):
    """What is looked for in the rows before training, and what happens to a row that has it."""

    exact_duplicates: Policy = "report"
    near_duplicates: Policy = "off"
    near_duplicate_threshold: float = Field(0.8, gt=0, le=1)
    train_eval_overlap: Policy = "error"
    benchmarks: Annotated[tuple[Path, ...], Field(strict=False)] = ()
    benchmark_overlap: Policy = "error"
    benchmark_ngram: int = Field(13, ge=3)
    personal_data: Literal["drop", "error", "report", "redact", "off"] = "report"
    secrets: Literal["drop", "error", "report", "redact", "off"] = "error"


class DataSection(Section):
    """Rows, and how they become conversations: a data template, or a known format of ready conversations."""

    template: Path | None = None
    format: Format | None = None
    train: Annotated[tuple[SourceSection, ...], Field(strict=False)]
    eval: Annotated[tuple[SourceSection, ...], Field(strict=False)] = ()
    split: SplitSection | None = None
    max_length: int = Field(1024, ge=8)
    too_long: Literal["error", "drop", "split_turns", "truncate_prompt", "split"] = "error"
    train_on: Literal["assistant", "last_assistant", "all"] = "assistant"
    special_tokens_in_data: Literal["escape", "error", "allow"] = "escape"
    packing: bool = False
    padding_free: bool = False
    allow_cross_doc: bool = False
    screen: ScreenSection = ScreenSection()  # type: ignore[call-arg]
    require_licence: bool = False
    workers: int = Field(1, ge=1)
    cache: bool = True

    @model_validator(mode="after")
    def one_source_of_held_out_rows(self) -> DataSection:
        if not self.train:
            raise ValueError("`train` names no file")
        if (self.template is None) == (self.format is None):
            raise ValueError("give exactly one of `template` and `format`")
        if bool(self.eval) == bool(self.split):
            raise ValueError("give either `eval` (files) or `split` (held-out rows of the training files), not both")
        kept = [source for source in (*self.train, *self.eval) if not source.hold_out]
        if kept and not self.split:
            raise ValueError(
                "`hold_out: false` is for sources of `train` beside a `split`; here none is held out anyway"
            )
        if len(kept) == len(self.train):
            raise ValueError("every source says `hold_out: false`: there is none to hold rows out of")
        return self

    @property
    def joined_by(self) -> tuple[str, ...]:
        """The keys that are on and put several documents into one row."""
        return tuple(f"data.{key}" for key in ("packing", "padding_free") if getattr(self, key))
