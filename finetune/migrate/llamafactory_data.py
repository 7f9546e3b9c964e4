"""LLaMA-Factory's data: names out of dataset_info.json, columns and tags as its `alpaca`, `sharegpt` and `openai` have them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.errors import did_you_mean
from finetune.migrate.datatemplate import Columns, Turns, of_columns, of_text, of_turns
from finetune.migrate.draft import Draft
from finetune.migrate.llamafactory_info import ALPACA, ENTRY, INFO, OPENAI, OTHERS, TAGS, entry_problems, info_of
from finetune.migrate.sources import Rows, count_rows, first_rows, hold_out, is_file_name, locate, put_data, weighted

KEPT = "the tokenizer's own chat template writes the conversation here, not a template of that name; look with finetune show"
CUT = "there prompt and answer lose their ends; here an answer is never cut: {what}"


def set_rows(draft: Draft, stage: str) -> int | None:
    """`data` of the recipe; how many rows there are to train on, where they can be counted."""
    _length(draft, stage)
    _trained(draft, stage)
    if (name := draft.get("template")) is not None and stage != "cpt":
        draft.changed("template", KEPT)
    elif name is not None:
        draft.idle("template", "documents have no chat template")
    train = [_set(draft, name, "dataset", stage) for name in draft.get("dataset", [])]
    held_out = [_set(draft, name, "eval_dataset", stage) for name in draft.get("eval_dataset", [])]
    if not train:
        draft.problem("dataset", "is missing")
        return None
    train = _mixed(draft, train)
    _first_rows(draft, train)
    put_data(draft, train, held_out)
    if held_out:
        counts = [rows.count for rows in train]
        return None if None in counts else sum(count or 0 for count in counts)
    return hold_out(draft, train, draft.get("val_size"), "val_size")


def _first_rows(draft: Draft, train: list[Rows]) -> None:
    """`max_samples`, which takes the first rows of each set."""
    most = draft.get("max_samples")
    if most is None:
        return
    if all(rows.count is not None and rows.count <= most for rows in train):
        draft.idle("max_samples", "no set has more rows")
    else:
        instead = f"a file of {most} rows under data.train (head -n {most})"
        draft.lost("max_samples", "no key takes the first rows of a set", instead)


def _length(draft: Draft, stage: str) -> None:
    draft.put("data.max_length", draft.get("cutoff_len", 2048), "cutoff_len")
    packed, apart = draft.get("packing"), draft.get("neat_packing", False)
    packing = bool(packed if packed is not None else stage == "cpt") or apart
    if packing and stage in ("sft", "cpt"):
        draft.put("data.packing", True, "neat_packing" if apart else "packing")
        if not apart:
            draft.changed("packing", "packed texts see each other there; here never (as with neat_packing)")
    elif packing:
        draft.idle("packing", f"stage {stage} does not pack")
    ways = {
        "cpt": ("split", "a longer document is trained in pieces"),
        "sft": ("truncate_prompt", "the oldest turns and the beginning of the longest question go"),
        "kto": ("truncate_prompt", "the oldest turns and the beginning of the longest question go"),
    }
    way, what = ways.get(stage, ("drop", "a pair that is too long is left out"))
    draft.write("data.too_long", way)
    if stage != "cpt":
        draft.changed("cutoff_len", CUT.format(what=what))


def _trained(draft: Draft, stage: str) -> None:
    if stage not in ("sft",):
        return
    if draft.get("train_on_prompt"):
        draft.put("data.train_on", "all", "train_on_prompt")
    elif draft.get("mask_history"):
        draft.put("data.train_on", "last_assistant", "mask_history")


def _mixed(draft: Draft, train: list[Rows]) -> list[Rows]:
    how, shares = draft.get("mix_strategy", "concat"), draft.get("interleave_probs")
    if how == "concat" or shares is None:
        return train
    try:
        numbers = [float(part) for part in (shares.split(",") if isinstance(shares, str) else shares)]
    except (TypeError, ValueError):
        draft.problem("interleave_probs", f"numbers with commas between them are needed, got {shares!r}")
        return train
    if len(numbers) != len(train):
        draft.problem("interleave_probs", f"{len(numbers)} numbers for {len(train)} sets")
        return train
    draft.changed("mix_strategy", "becomes `weight` of each source: its share of the drawn rows, however long the run")
    draft.get("interleave_probs")
    return weighted(train, numbers)


def _set(draft: Draft, name: str, key: str, stage: str) -> Rows:
    folder, info = info_of(draft)
    if info is None:
        return _unknown(draft, name, key, folder, stage)
    if name not in info or not isinstance(info[name], dict):
        draft.problem(key, f"{name}: is not in {folder / INFO}{did_you_mean(name, info)}")
        return Rows({})
    entry = info[name]
    problems = entry_problems(entry)
    for problem in problems:
        draft.problem(key, f"{name}: {INFO}: {problem}")
    if problems:
        return Rows({})
    return _shaped(draft, _located(draft, name, key, entry, folder), entry, name, key, stage)


def _unknown(draft: Draft, name: str, key: str, folder: Path, stage: str) -> Rows:
    """Without a dataset_info.json a name says only that there is a set."""
    form = {"cpt": "text", "kto": "labelled", "dpo": "preference", "orpo": "preference", "simpo": "preference",
            "reward": "preference"}.get(stage, "auto")  # fmt: skip
    if str(folder) == "ONLINE":
        draft.get("dataset_dir")
        return Rows({"hub": name}, form)
    file = folder / (name if is_file_name(name) else f"{name}.json")
    text = f"{name}: there is no {INFO} beside the file or in {folder}, which says what it is"
    draft.lost(key, text, f"put its path under data.train (written is {file})")
    return Rows(locate(draft, f"./{file}", key, [Path()], {}).source, form)


def _located(draft: Draft, name: str, key: str, entry: dict[str, Any], folder: Path) -> Rows:
    split = str(entry.get("split", "train"))
    if entry.get("num_samples"):
        draft.lost(key, f"{name}: num_samples: no key takes some rows of a set", "a file of as many rows")
    if "hf_hub_url" in entry:
        if entry.get("folder"):
            draft.lost(key, f"{name}: folder {entry['folder']} of a hub set", "the set's `subset`")
        where = {"split": split} | ({"subset": str(entry["subset"])} if entry.get("subset") else {})
        return Rows({"hub": str(entry["hf_hub_url"])} | where)
    if "file_name" not in entry:
        kind = next((word for word in ENTRY if word in entry), "nothing")
        draft.lost(
            key,
            f"{name}: {kind} says where it lies, which is not read here",
            "a file, or a set of the Hugging Face hub",
        )
        return Rows({"path": f"{name}.json"})
    file = folder / str(entry["file_name"])
    rows = locate(draft, str(file) if file.is_absolute() else f"./{file}", key, [Path()], {})
    return replace(rows, count=count_rows(file) if file.exists() else None)


def _shaped(draft: Draft, rows: Rows, entry: dict[str, Any], name: str, key: str, stage: str) -> Rows:
    """The format, or a template, for its columns and tags; a column that `columns` leaves out is none."""
    given, tags = entry.get("columns"), entry.get("tags")
    columns: dict[str, Any] = {word: None for word in OTHERS} | (ALPACA if given is None else dict.fromkeys(ALPACA))
    columns["messages"] = "conversations" if given is None else None
    columns |= given or {}
    for word in ("images", "videos", "audios"):
        if columns[word]:
            draft.lost(key, f"{name}: {word}: is not trained on here", "rows of text")
    form = entry.get("formatting", "alpaca")
    if form == "alpaca":
        return _alpaca(draft, rows, columns, name, key, stage)
    if form not in ("sharegpt", "openai"):
        draft.problem(
            key, f"{name}: formatting: {form!r} is none{did_you_mean(str(form), ('alpaca', 'sharegpt', 'openai'))}"
        )
        return rows
    words: dict[str, Any] = TAGS if not tags else dict.fromkeys(TAGS) | tags
    return _turns(draft, rows, columns, words, name, key, bool(entry.get("ranking")))


def _alpaca(draft: Draft, rows: Rows, columns: dict[str, Any], name: str, key: str, stage: str) -> Rows:
    question, more, answer = columns["prompt"], columns["query"], columns["response"]
    system, fixed = columns["system"], draft.get("default_system", "")
    if stage == "cpt":
        text = question or "text"
        return (
            replace(rows, format="text") if text == "text" else replace(rows, template=of_text(_name(name), name, text))
        )
    if columns["tools"]:
        draft.lost(key, f"{name}: tools beside alpaca's columns", "rows of messages with tools")
    pairs, labelled = columns["chosen"] and columns["rejected"], columns["kto_tag"]
    usual = (question, more, answer) == tuple(ALPACA.values()) and system in (None, "system") and not fixed
    if usual and not pairs and not labelled and not _read_here_only(rows, columns):
        return replace(rows, format="alpaca")
    if columns["history"]:
        draft.lost(key, f"{name}: {columns['history']}: earlier turns beside these columns", "data.format: alpaca")
    shape = Columns(question or ALPACA["prompt"], more=more, system=system, fixed=fixed)
    if pairs:
        shape = replace(shape, chosen=columns["chosen"], rejected=columns["rejected"])
    else:
        shape = replace(shape, answer=answer or ALPACA["response"], label=labelled or "")
    return replace(rows, template=of_columns(_name(name), name, shape))


def _read_here_only(rows: Rows, columns: dict[str, Any]) -> bool:
    """Whether rows have a column that our format `alpaca` reads and theirs is not told to."""
    unread = [word for word in ("system", "history") if not columns[word]]
    return any(word in row.values for row in first_rows(rows.file) for word in unread)


def _turns(
    draft: Draft, rows: Rows, columns: dict[str, Any], tags: dict[str, Any], name: str, key: str, ranking: bool
) -> Rows:
    column = columns["messages"] or "conversations"
    if draft.get("default_system"):
        draft.lost(
            "default_system", f"{name}: rows of turns say themselves what the system says", "a system turn in each row"
        )
    if not ranking and not columns["kto_tag"]:
        usual = all(tags[word] in (None, TAGS[word]) for word in TAGS)
        if usual and tags["role_tag"] and column == "conversations":
            return replace(rows, format="sharegpt")
        if all(tags[word] == value for word, value in OPENAI.items()) and column in ("messages", "conversations"):
            return replace(rows, format="messages")
    if columns["tools"] or columns["system"]:
        draft.lost(
            key,
            f"{name}: {columns['tools'] or columns['system']}: a column beside turns with other names",
            "format sharegpt",
        )
    content = tags["content_tag"] or TAGS["content_tag"]
    shape = Turns(
        column, tags["role_tag"] or TAGS["role_tag"], content, tags["user_tag"] or TAGS["user_tag"],
        tags["assistant_tag"] or TAGS["assistant_tag"], tags["system_tag"], label=columns["kto_tag"] or "",
    )  # fmt: skip
    if ranking:
        shape = replace(shape, chosen=columns["chosen"] or "chosen", rejected=columns["rejected"] or "rejected")
    draft.changed(
        key, f"{name}: conversations of up to four questions are taken, those with more or with tools left out"
    )
    return replace(rows, template=of_turns(_name(name), name, shape))


def _name(text: str) -> str:
    return "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in text).strip("_") or "rows"
