"""LLaMA-Factory's dataset_info.json: the keys of a set's entry, its columns and tags, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune.errors import did_you_mean
from finetune.migrate.draft import Draft

INFO = "dataset_info.json"
ENTRY = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "formatting", "ranking",
         "subset", "split", "folder", "num_samples", "columns", "tags")  # fmt: skip
ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
OTHERS = ("history", "messages", "system", "tools", "images", "videos", "audios", "chosen", "rejected", "kto_tag")
TAGS = {
    "role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
    "observation_tag": "observation", "function_tag": "function_call", "system_tag": "system",
}  # fmt: skip
OPENAI = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def info_of(draft: Draft) -> tuple[Path, dict[str, Any] | None]:
    """The folder of the data, and what its dataset_info.json says; None where there is none."""
    given = draft.get("dataset_dir", "data")
    places = [folder / given for folder in draft.folders()] + [draft.given.file.parent]
    place = next((place for place in places if (place / INFO).is_file()), None)
    if place is None:
        return Path(given), None
    try:
        info = json.loads((place / INFO).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        draft.problem("dataset_dir", f"{place / INFO}: can't be read: {error}")
        return place, {}
    return place, info if isinstance(info, dict) else {}


def entry_problems(entry: dict[str, Any]) -> list[str]:
    """Keys of a set's entry that there are not, columns and tags that are no names."""
    found = [f"{word}: is no key of a set{did_you_mean(word, ENTRY)}" for word in entry if word not in ENTRY]
    for part, known in (("columns", (*ALPACA, *OTHERS)), ("tags", tuple(TAGS))):
        names = entry.get(part) or {}
        if not isinstance(names, dict):
            found.append(f"{part}: a mapping is needed, got {names!r}")
            continue
        found += [f"{part}.{word}: there is none{did_you_mean(word, known)}" for word in names if word not in known]
        found += [
            f"{part}.{word}: text is needed, got {name!r}"
            for word, name in names.items()
            if not isinstance(name, str | None)
        ]
    return found
