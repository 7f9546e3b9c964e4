"""Axolotl's `datasets`: the places of the sets, and which keys of them are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.errors import did_you_mean
from finetune.migrate.axolotl_types import DOCUMENTS, of_documents, shaped
from finetune.migrate.draft import Draft
from finetune.migrate.sources import Rows, count_rows, found, from_recipe, hold_out, locate, put_data

# Keys of a set that are read, those that change nothing, and those that have no equivalent.
READ = ("path", "type", "data_files", "split", "name", "revision", "field", "field_messages", "field_tools",
        "field_chosen", "field_rejected", "message_property_mappings", "message_field_role", "message_field_content",
        "roles", "text_column")  # fmt: skip
IDLE = {
    "ds_type": "the file's ending says it",
    "trust_remote_code": "data is read, never run",
    "preprocess_shards": "data.workers says how many processes",
    "chat_template": "the tokenizer's own chat template writes the turns",
}
AS_USUAL = {
    "roles_to_train": (["assistant"], ["gpt"], ["assistant", "gpt"]),
    "train_on_eos": ("turn",),
    "train_on_eot": ("turn",),
}
LOST = {
    "roles_to_train": "the assistant's turns are trained, or all (data.train_on: all)",
    "train_on_eos": "the end of every trained turn is trained", "train_on_eot": "the end of every trained turn is trained",
    "shards": "a file with the rows wanted", "shards_idx": "a file with the rows wanted", "skip": "a file without the rows",
    "message_field_training": "`train` or `weight` of a message", "message_field_training_detail": "`train` of a message",
    "field_thinking": "reasoning_content of a message", "template_thinking_key": "reasoning_content of a message",
    "split_thinking": "reasoning_content of a message", "drop_system_message": "a file without them",
    "chat_template_jinja": "model.tokenizer_name_or_path: a copy of it",
    "input_transform": "a file already transformed",
    "input_format": "a data template", "logprobs_field": "stage distill", "temperature": "stage distill",
    "field_human": "`from` and `value` of turns", "field_model": "`from` and `value` of turns",
    "conversation": "the tokenizer's own chat template", "step_separator": "stage reward",
    "max_completion_length": "data.max_length", "train_on_last_step_only": "stage reward",
}  # fmt: skip


def stage_of_sets(draft: Draft) -> str:
    """cpt for sets of documents only; which are told by their type."""
    if draft.get("pretraining_dataset"):
        return "cpt"
    kinds = [_kind(one) for one in _listed(draft.get("datasets"))]
    documents = [kind for kind in kinds if kind in DOCUMENTS]
    if documents and len(documents) < len(kinds):
        draft.lost("datasets", "documents beside conversations in one set", "a mixture of stages cpt and sft")
    return "cpt" if documents and len(documents) == len(kinds) else "sft"


def set_rows(draft: Draft, stage: str) -> int | None:
    """`data` of the recipe; how many rows there are to train on, where they can be counted."""
    _length(draft, stage)
    if draft.get("train_on_inputs") and stage == "sft":
        draft.put("data.train_on", "all", "train_on_inputs")
    if draft.get("dataset_exact_deduplication"):
        draft.write("data.screen.exact_duplicates", "drop", "dataset_exact_deduplication")
    key = "datasets" if draft.get("datasets") else "pretraining_dataset"
    train = [_set(draft, one, key, stage) for one in _listed(draft.get(key))]
    held_out = [_set(draft, one, "test_datasets", stage) for one in _listed(draft.get("test_datasets"))]
    if not train:
        draft.problem(key, "is missing, or holds no set")
        return None
    put_data(draft, train, held_out)
    if held_out:
        if draft.get("val_set_size"):
            draft.idle("val_set_size", "test_datasets go before it")
        counts = [rows.count for rows in train]
        return None if None in counts else sum(count or 0 for count in counts)
    return hold_out(draft, train, draft.get("val_set_size"), "val_set_size")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _kind(one: Any) -> str:
    kind = one.get("type") if isinstance(one, dict) else None
    return str(kind).partition(":")[0] if isinstance(kind, str) else ""


def _length(draft: Draft, stage: str) -> None:
    draft.put("data.max_length", draft.get("sequence_len", 512), "sequence_len")
    how = draft.get("excess_length_strategy", "drop")
    ways = {"drop": "drop", "truncate": "truncate_prompt", "raise": "error"}
    if how not in ways:
        draft.problem("excess_length_strategy", f"{how!r} is none{did_you_mean(how, ways)}")
        return
    way = "split" if stage == "cpt" else ways[how]
    if way == "truncate_prompt":
        draft.changed(
            "excess_length_strategy",
            "the end is cut off there; here an answer never is: oldest turns and long questions go",
        )
        way = "drop" if stage not in ("sft", "kto") else way
    draft.put("data.too_long", way, "excess_length_strategy" if stage != "cpt" else "")
    if draft.get("sample_packing") or (stage == "cpt" and draft.get("pretraining_dataset")):
        draft.put("data.packing", True, "sample_packing")


def _set(draft: Draft, one: Any, key: str, stage: str) -> Rows:
    if isinstance(one, str):
        one = {"path": one}
    if not isinstance(one, dict) or not one.get("path"):
        draft.problem(key, f"a set with `path` is needed, got {one!r}")
        return Rows({})
    for word in ("message_property_mappings", "roles"):
        if not isinstance(one.get(word) or {}, dict):
            draft.problem(key, f"{one['path']}: {word}: a mapping is needed, got {one[word]!r}")
            one = {other: value for other, value in one.items() if other != word}
    for word, value in one.items():
        if word in LOST and value not in (None, False) and value not in AS_USUAL.get(word, ()):
            draft.lost(key, f"{one['path']}: {word}: {value}: has no key here", LOST[word])
        elif word in IDLE and value not in (None, False):
            draft.idle(key, f"{one['path']}: {word}: {IDLE[word]}")
        elif word not in (*READ, *IDLE, *LOST):
            draft.lost(key, f"{one['path']}: {word}: is not known here{did_you_mean(word, (*READ, *LOST))}")
    rows = _located(draft, one, key)
    if key == "pretraining_dataset":
        return of_documents(rows, one, str(one.get("text_column") or "text"))
    return shaped(draft, rows, one, key, stage)


def _located(draft: Draft, one: Mapping[str, Any], key: str) -> Rows:
    files = _listed(one.get("data_files"))
    where = {
        word: str(one[ours])
        for word, ours in (("split", "split"), ("subset", "name"), ("revision", "revision"))
        if one.get(ours)
    }
    path = str(one["path"])
    if files and (path in ("json", "csv", "parquet", "text", "arrow") or found(str(files[0]), draft.folders())):
        if len(files) > 1:
            draft.lost(key, f"{path}: several data_files", "a source each under data.train")
        return locate(draft, str(files[0]), key, draft.folders(), {})
    if files:
        folder = found(path, draft.folders())
        if folder is not None and (folder / str(files[0])).exists():
            file = folder / str(files[0])
            return Rows({"path": from_recipe(file, draft.output)}, file=file, count=count_rows(file))
        draft.lost(
            key, f"{path}: data_files {', '.join(map(str, files))} of a set", "`subset` and `split` of the source"
        )
    return locate(draft, path, key, draft.folders(), where)
