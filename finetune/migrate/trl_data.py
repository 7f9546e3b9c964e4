"""TRL's data: sets of the hub or files, whose columns tell their format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from finetune.data.formats import detect
from finetune.errors import DataError, did_you_mean
from finetune.migrate.datatemplate import of_text
from finetune.migrate.draft import Draft
from finetune.migrate.sources import Rows, first_rows, hold_out, locate, put_data

SET = ("path", "name", "data_dir", "data_files", "split", "columns", "fraction")
ROWS = {"dpo": "preference", "orpo": "preference", "simpo": "preference", "reward": "preference", "kto": "labelled"}
BUILDERS = ("json", "csv", "parquet", "text", "arrow")


def set_rows(draft: Draft, stage: str) -> int | None:
    """`data` of the recipe; how many rows there are to train on, where they can be counted."""
    train = _sets(draft)
    if not train:
        return None
    train = [_shaped(draft, rows, stage) for rows in train]
    stage = str(draft.recipe["stage"])
    _length(draft, stage)
    if stage == "sft":
        _trained(draft, train[0].format)
    looked_at = str(draft.get("eval_strategy") or draft.get("evaluation_strategy") or "no") != "no"
    held_out = _test_split(draft, train) if looked_at else []
    put_data(draft, train, held_out)
    if held_out:
        return train[0].count if len(train) == 1 and train[0].file and train[0].file.is_file() else None
    return hold_out(draft, train, draft.get("test_split_size"), "test_split_size")


def _sets(draft: Draft) -> list[Rows]:
    mixture = draft.get("datasets")
    name = draft.get("dataset_name")
    if mixture:
        if name:
            draft.idle("dataset_name", "datasets go before it")
        found = [_of_mixture(draft, one) for one in mixture] if isinstance(mixture, list) else []
        if not found:
            draft.problem("datasets", f"a list of sets with `path` is needed, got {mixture!r}")
        return found
    if not name:
        draft.problem("dataset_name", "is missing, and so is `datasets`")
        return []
    where = {"split": draft.get("dataset_train_split", "train")}
    if subset := draft.get("dataset_config"):
        where["subset"] = subset
    return [locate(draft, name, "dataset_name", draft.folders(), where)]


def _of_mixture(draft: Draft, one: Any) -> Rows:
    if not isinstance(one, dict) or not one.get("path"):
        draft.problem("datasets", f"a set with `path` is needed, got {one!r}")
        return Rows({})
    for word in one:
        if word not in SET:
            draft.problem("datasets", f"{word}: not a key of a set{did_you_mean(word, SET)}")
    for word, instead in (
        ("data_dir", "`subset`"),
        ("columns", "a data template"),
        ("fraction", "`weight` of a source"),
    ):
        if one.get(word):
            draft.lost("datasets", f"{one['path']}: {word}: {one[word]}: has no key here", instead)
    where = {"split": str(one.get("split") or "train")} | ({"subset": str(one["name"])} if one.get("name") else {})
    files = one.get("data_files")
    if files and (one["path"] in BUILDERS) and isinstance(files, str):
        return locate(draft, files, "datasets", draft.folders(), {})
    if files:
        draft.lost("datasets", f"{one['path']}: data_files: {files}", "a source each under data.train")
    return locate(draft, str(one["path"]), "datasets", draft.folders(), where)


def _shaped(draft: Draft, rows: Rows, stage: str) -> Rows:
    """With the format that its stage wants, or the columns of a file on this machine tell."""
    if stage in ROWS:
        return replace(rows, format=ROWS[stage])
    field = draft.get("dataset_text_field", "text")
    first = first_rows(rows.file)
    try:
        format = detect(first) if first else "auto"
    except DataError:
        format = "text" if first and field in first[0].values else "auto"
    if format == "text" or (field != "text" and format == "auto"):
        draft.write("stage", "cpt", "documents: SFT on a text column there")
        return (
            replace(rows, template=of_text("documents", str(draft.given.file.name), field))
            if field != "text"
            else replace(rows, format="text")
        )
    return replace(rows, format=format)


def _trained(draft: Draft, format: str) -> None:
    """Which tokens: TRL trains all of a conversation unless told otherwise, and completions of prompt and completion."""
    assistant, completion = draft.get("assistant_only_loss", False), draft.get("completion_only_loss")
    if format == "prompt_completion":
        if completion is False:
            draft.put("data.train_on", "all", "completion_only_loss")
    elif assistant or (completion and format == "auto"):
        draft.put("data.train_on", "assistant", "assistant_only_loss" if assistant else "completion_only_loss")
    else:
        draft.put("data.train_on", "all", "assistant_only_loss")
        if format == "auto":
            draft.changed(
                "assistant_only_loss",
                "every token of `messages` is trained unless it is true; if the rows are prompt and completion, whose "
                "completions alone are, set data.train_on: assistant",
            )  # fmt: skip


def _length(draft: Draft, stage: str) -> None:
    key = "max_seq_length" if "max_seq_length" in draft.given.values else "max_length"
    if key in draft.given.values and draft.values.get(key) is None:
        draft.write("data.max_length", 8192, "no limit there")
        draft.lost(key, "a recipe has a limit", "data.max_length: 8192")
    else:
        draft.put("data.max_length", draft.get(key, 1024), key)
    draft.get("truncation_mode")
    ways = {"sft": "truncate_prompt", "kto": "truncate_prompt", "cpt": "split"}
    way = ways.get(stage, "drop")
    draft.write("data.too_long", way)
    what = {
        "truncate_prompt": "here an answer is never cut: the oldest turns and the beginning of the longest question go",
        "split": "here a longer document is trained in pieces",
        "drop": "here a pair that is too long is left out",
    }
    draft.changed(
        "truncation_mode" if "truncation_mode" in draft.given.values else key,
        f"what is too long is cut there, answers too; {what[way]}",
    )
    if draft.get("packing") and stage in ("sft", "cpt"):
        draft.put("data.packing", True, "packing")
        if draft.get("packing_strategy", "bfd") == "wrapped":
            draft.changed(
                "packing_strategy",
                "wrapped cuts texts and joins them; here whole ones are packed and do not see each other",
            )
    elif draft.get("padding_free") and stage in ("sft", "cpt"):
        draft.put("data.padding_free", True, "padding_free")


def _test_split(draft: Draft, train: Sequence[Rows]) -> list[Rows]:
    """The split that is looked at, of hub sets and folders; a single file has none."""
    if draft.get("test_split_size"):
        return []
    name = draft.get("dataset_test_split", "test")
    found: list[Rows] = []
    for rows in train:
        source: Mapping[str, Any] = rows.source
        if "hub" in source or (rows.file is not None and rows.file.is_dir()):
            found.append(replace(rows, source={**source, "split": name}))
        else:
            draft.changed(
                "dataset_test_split", f"{source.get('path')}: a file has no split {name}: rows of it are held out"
            )
    return found
