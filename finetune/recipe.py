"""A recipe: one YAML file, its parent, and `--set` overrides, checked into one frozen object. Nothing is ignored."""

from __future__ import annotations

import ast
import glob
import importlib.util
import types
import typing
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from finetune.errors import RecipeError, did_you_mean
from finetune.yamlfile import parse_scalar, read_yaml

Names = Annotated[tuple[str, ...], Field(strict=False)]  # a YAML list of words
Origin = dict[tuple[str, ...], str]  # key path -> "file:line" or "--set"

TRACKERS = ("tensorboard", "wandb", "swanlab", "trackio")


class Section(BaseModel):
    """Frozen, no key beyond the declared ones, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelSection(Section):
    """Which base model. `name_or_path`: hub id, local folder, or `pkg:NAME` for files inside an installed package."""

    name_or_path: str
    revision: str | None = None
    gguf_file: str | None = None
    tokenizer_name_or_path: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    attn_implementation: str = "auto"
    trust_remote_code: bool = False


class LoraSection(Section):
    """LoRA settings under peft's own names; every other field of `peft.LoraConfig` passes through."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    r: int = Field(16, ge=1)
    lora_alpha: int | float = Field(32, gt=0)
    lora_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    target_modules: str | Names = "all-linear"


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
    `subset` and `split`. `header` names the first column of the header line when a preamble stands before it.
    `weight` is this source's share of the drawn rows, `repeat` how many times each of its rows is used.
    """

    path: str | None = None
    hub: str | None = None
    subset: str | None = None
    split: str | None = None
    kind: Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "excel", "text"] = "auto"
    format: Literal["auto", "template", "messages", "sharegpt", "alpaca", "prompt_completion", "text"] | None = None
    encoding: str = "auto"
    header: str | None = None
    sheet: str | None = None
    weight: float | None = Field(None, gt=0)
    repeat: int = Field(1, ge=1)
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
    format: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "text"] | None = None
    train: Annotated[tuple[SourceSection, ...], Field(strict=False)]
    eval: Annotated[tuple[SourceSection, ...], Field(strict=False)] = ()
    split: SplitSection | None = None
    max_length: int = Field(1024, ge=8)
    too_long: Literal["error", "drop", "split_turns", "truncate_prompt"] = "error"
    train_on: Literal["assistant", "last_assistant", "all"] = "assistant"
    special_tokens_in_data: Literal["escape", "error", "allow"] = "escape"
    packing: bool = False
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
        return self


class TrainSection(Section):
    """The loop. `global_batch_size` counts sequences per optimizer step over all devices, whatever the hardware."""

    global_batch_size: int = Field(16, ge=1)
    micro_batch_size: int | None = Field(None, ge=1)
    max_steps: int | None = Field(None, ge=1)
    num_train_epochs: float | None = Field(None, gt=0)
    learning_rate: float = Field(2e-4, gt=0)
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    logging_steps: int = Field(1, ge=1)

    @model_validator(mode="after")
    def one_length(self) -> TrainSection:
        if (self.max_steps is None) == (self.num_train_epochs is None):
            raise ValueError("give exactly one of `max_steps` and `num_train_epochs`")
        return self


class EvaluateSection(Section):
    """Greedy answers to the held-out rows, base and tuned, scored by the data template's metric."""

    rows: int | None = Field(None, ge=1)
    batch_size: int = Field(32, ge=1)
    max_new_tokens: int = Field(256, ge=1)


class GateSection(Section):
    """Least scores of the tuned model; below one of them nothing is exported."""

    min: dict[str, float] = Field(default_factory=dict)
    better_than_base: bool = True


class ExportSection(Section):
    """The bundle. `dtype: auto` is the dtype the base was trained in."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_shard_size: str = "5GB"
    parity_rows: int = Field(8, ge=1)


class Recipe(Section):
    """A whole run. See docs/recipe.md for every key."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    stage: Literal["sft"] = "sft"
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda", "npu"] = "auto"
    output_dir: Path = Field(strict=False)
    report_to: Names = ()
    model: ModelSection
    lora: LoraSection = LoraSection()  # type: ignore[call-arg]
    data: DataSection
    train: TrainSection
    evaluate: EvaluateSection = EvaluateSection()  # type: ignore[call-arg]
    gate: GateSection = GateSection()
    export: ExportSection = ExportSection()  # type: ignore[call-arg]

    @model_validator(mode="after")
    def trackers_are_known(self) -> Recipe:
        for tracker in self.report_to:
            if tracker not in TRACKERS:
                raise ValueError(f"report_to: {tracker!r} is not a tracker{did_you_mean(tracker, TRACKERS)}")
            if importlib.util.find_spec(tracker) is None:
                raise ValueError(f"report_to: the package {tracker!r} is not installed; pip install {tracker}")
        return self


# Keys that hold paths: resolved against the folder of the file that gives them.
PATH_KEYS = (("model", "name_or_path"), ("model", "tokenizer_name_or_path"), ("data", "template"), ("data", "train"),
             ("data", "eval"), ("data", "screen", "benchmarks"))  # fmt: skip


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path` on top of its parents, with `--set` overrides on top of all.

    Raises:
        RecipeError: every problem found, each with file, line and key.
    """
    data, origin = _with_parents(path, ())
    problems = _apply_overrides(data, origin, overrides)
    problems += _unknown_lora_keys(data, origin)
    _resolve_paths(data, origin)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(problems + [_problem(path, item, origin) for item in error.errors()]) from None
    problems += _missing_files(recipe, origin)
    if problems:
        raise RecipeError(problems)
    return recipe


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every default filled in, as plain values that YAML and JSON can hold."""
    return recipe.model_dump(mode="json")


@cache
def lora_config_fields() -> frozenset[str]:
    """Field names of the installed `peft.LoraConfig`, read from its source so that checking a recipe needs no torch."""
    spec = importlib.util.find_spec("peft")
    if spec is None or spec.origin is None:
        raise RecipeError("the package peft is not installed; pip install peft")
    source = Path(spec.origin).parent / "tuners/lora/config.py"
    tree = ast.parse(source.read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "LoraConfig")
    return frozenset(node.target.id for node in body if isinstance(node, ast.AnnAssign) and hasattr(node.target, "id"))


def _with_parents(path: Path, children: tuple[Path, ...]) -> tuple[dict[str, Any], Origin]:
    if path.resolve() in children:
        raise RecipeError(f"{path}: extends itself through {' -> '.join(str(child) for child in children)}")
    data, lines = read_yaml(path)
    origin: Origin = {key: f"{path}:{line}" for key, line in lines.items()}
    parent = data.pop("extends", None)
    if parent is None:
        return data, origin
    if not isinstance(parent, str):
        raise RecipeError(f"{origin[('extends',)]}: extends: one file name is needed, got {parent!r}")
    below, below_origin = _with_parents(path.parent / parent, (*children, path.resolve()))
    return _merge(below, data), below_origin | origin


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections merge key by key; anything else (lists too) is replaced."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply_overrides(data: dict[str, Any], origin: Origin, overrides: Sequence[str]) -> list[str]:
    problems = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            problems.append(f"--set {override}: the form is key=value, for example train.learning_rate=1e-4")
            continue
        *sections, last = key.split(".")
        target = data
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                problems.append(f"--set {override}: {section} is not a section")
                break
        else:
            target[last] = parse_scalar(text)
            origin[tuple(key.split("."))] = "--set"
    return problems


def _unknown_lora_keys(data: dict[str, Any], origin: Origin) -> list[str]:
    """`lora:` passes on what peft knows; a key that peft's own dataclass lacks is a mistake."""
    section = data.get("lora")
    unknown = [key for key in section if key not in lora_config_fields()] if isinstance(section, dict) else []
    return [
        f"{origin.get(('lora', key), '--set')}: lora.{key}: not a field of peft.LoraConfig"
        f"{did_you_mean(key, lora_config_fields())}"
        for key in unknown
    ]


def _resolve_paths(data: dict[str, Any], origin: Origin) -> None:
    """Every path made absolute, from the folder of the file that names it; a source that is plain text made one."""
    for location in PATH_KEYS:
        *sections, key = location
        values: Any = data
        for section in sections:
            values = values.get(section) if isinstance(values, dict) else None
        if not isinstance(values, dict) or values.get(key) is None:
            continue
        where = origin.get(location, "--set")
        folder = Path() if where == "--set" else Path(where.rpartition(":")[0]).parent
        value = values[key]
        if (
            location[0] == "model"
        ):  # a hub id looks like a relative path: only what exists, or starts with a dot, is one
            if isinstance(value, str) and (value.startswith(".") or (folder / value).is_dir()):
                values[key] = str((folder / value).resolve())
        elif key == "template":
            values[key] = (folder / value).resolve() if isinstance(value, str) else value
        else:
            items = value if isinstance(value, list) else [value]
            values[key] = [_located(item, folder, key != "benchmarks") for item in items]


def _located(item: Any, folder: Path, as_source: bool) -> Any:
    """A source (or a plain path) with its path absolute. Glob characters pass through."""
    if isinstance(item, str):
        path = (folder / item).resolve()
        return {"path": str(path)} if as_source else path
    if isinstance(item, dict) and isinstance(item.get("path"), str):
        return item | {"path": str((folder / item["path"]).resolve())}
    return item


def _missing_files(recipe: Recipe, origin: Origin) -> list[str]:
    wanted: list[tuple[str, str]] = [("template", str(recipe.data.template))] if recipe.data.template else []
    for key, sources in (("train", recipe.data.train), ("eval", recipe.data.eval)):
        wanted += [(key, source.path) for source in sources if source.path is not None]
    problems = []
    for key, path in wanted:
        found = glob.has_magic(path) or Path(path).exists()
        if not found:
            problems.append(f"{origin.get(('data', key), '--set')}: data.{key}: no such file: {path}")
    return problems


def _problem(path: Path, item: Any, origin: Origin) -> str:
    """One pydantic error as `file:line: key: what; got value`."""
    location = tuple(str(part) for part in item["loc"] if part not in ("str", "int", "float", "tuple[str, ...]"))
    where = next((origin[location[:n]] for n in range(len(location), 0, -1) if location[:n] in origin), str(path))
    key = ".".join(location)
    lead = f"{where}: {key}: " if key else f"{where}: "
    if item["type"] == "extra_forbidden":
        return f"{lead}unknown key{_near_key(location)}"
    if item["type"] == "missing":
        return f"{lead}is missing"
    message = item["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = item["input"]
    return f"{lead}{message}" + ("" if isinstance(given, dict | BaseModel) else f"; got {given!r}")


def _near_key(location: tuple[str, ...]) -> str:
    """The nearest key of this section, or the section this key belongs to."""
    word = location[-1]
    for section, field in Recipe.model_fields.items():
        inner = _section_class(field.annotation)
        if inner and word in inner.model_fields and location[:-1] != (section,):
            return f"; it belongs under {section}: ({section}.{word})"
        if len(location) > 1 and word == section:
            return f"; it belongs at the top level, not under {location[-2]}:"
    model: type[BaseModel] | None = Recipe
    for part in location[:-1]:
        inside = model.model_fields.get(part) if model else None
        model = _section_class(inside.annotation) if inside else None
    return did_you_mean(word, model.model_fields if model else ())


def _section_class(annotation: Any) -> type[BaseModel] | None:
    candidates = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)
