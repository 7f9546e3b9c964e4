"""The bundle's model card, README.md and README.zh-CN.md: what the manifest, recipe and template say, and nothing else."""

from __future__ import annotations

import pprint
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finetune.export.facts import read_json
from finetune.export.origin import BaseModel, architecture, base_model, read_recipe, read_template
from finetune.pages import cell, render

# What the hub accepts as `license`; anything else goes under `other` with a name.
# https://huggingface.co/docs/hub/repositories-licenses
HUB_LICENCES = frozenset((
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0",
    "etalab-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1",
    "lgpl-3.0", "isc", "h-research", "intel-research", "lppl-1.3c", "ms-pl", "apple-ascl", "apple-amlr", "mpl-2.0",
    "odc-by", "odbl", "openmdw-1.0", "openrail++", "osl-3.0", "postgresql", "ofl-1.1", "ncsa", "unlicense", "zlib",
    "pddl", "lgpl-lr", "deepfloyd-if-license", "fair-noncommercial-research-license", "llama2", "llama3",
    "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma", "unknown", "other",
))  # fmt: skip
LANGUAGES = {"README.md": "card.md.jinja", "README.zh-CN.md": "card.zh-CN.md.jinja"}
# How a card calls a method (peft's word in small letters), in both languages.
METHODS = {"lora": "LoRA", "ia3": "(IA)^3", "oft": "OFT", "vera": "VeRA", "prompt_tuning": "Prompt tuning",
           "prefix_tuning": "Prefix tuning"}  # fmt: skip
SETTINGS = (
    ("ia3", ("target_modules", "feedforward_modules")),
    ("oft", ("r", "oft_block_size", "coft", "block_share", "use_cayley_neumann")),
    ("vera", ("r", "d_initial", "vera_dropout", "projection_prng_key")),
    ("prompt_tuning", ("num_virtual_tokens", "prompt_tuning_init", "prompt_tuning_init_text")),
    ("prefix_tuning", ("num_virtual_tokens", "init_weights")),
    ("lora", ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "init_lora_weights")),
    ("data", ("max_length", "train_on", "packing")),
    ("train", ("global_batch_size", "max_steps", "num_train_epochs", "optim", "learning_rate",
               "lr_scheduler_type", "warmup_ratio", "warmup_steps", "weight_decay", "max_grad_norm")),
)  # fmt: skip
# What the sections on data, training and the merge read of the manifest.
DATA = ("sources", "train_samples", "evaluate_samples", "dropped_by_template", "screening")
TRAINING = ("steps", "tokens", "trained_tokens", "loss", "seconds", "processes", "lora")
REWARD_PROOF = ("dtype", "rows", "max_reward_difference", "largest_reward", "limits")
PROOF = ("dtype", "rows", "positions", "max_logit_difference", "mean_kl", "greedy_agreement", "limits")


def write_card(bundle: Path, manifest: Mapping[str, Any]) -> None:
    """Writes both cards into the bundle, whose other files (recipe, template, weights, serve/) are there already.

    Args:
        manifest: as in MANIFEST.json. What it lacks (an adapter made elsewhere has no data or scores) is said to be
            unknown.
    """
    filters: dict[str, Callable[..., str]] = {"cell": cell, "score": lambda value: f"{value:.3f}", "ends": _ends}
    facts = _facts(bundle, manifest)
    for name, template in LANGUAGES.items():
        text = render("export", template, facts, filters)
        if name == "README.md":
            text = f"---\n{_front_matter(facts)}\n---\n\n{text}"
        (bundle / name).write_text(text, encoding="utf-8")


def _facts(bundle: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """All that the templates show."""
    recipe, data = read_recipe(bundle, manifest), _whole(manifest.get("data"), DATA)
    scores = manifest.get("scores") or {}
    base = base_model(manifest["base"])
    card = recipe.get("card") or {}
    served = str(read_json(bundle / "adapter/adapter_config.json").get("peft_type") or "LORA").lower()
    licence = _licence(base, card.get("licence"))
    return {
        "name": manifest["name"],
        "base": base,
        "template": read_template(bundle),
        "card": {key: card.get(key) for key in ("intended_use", "limits", "licence", "language")},
        "licence": licence,
        "merged": (bundle / "config.json").is_file(),
        "method": METHODS.get(recipe.get("peft_type") or served, served),
        "kind": recipe.get("peft_type") or served,
        "served": METHODS.get(served, served),
        "has_adapter": (bundle / "adapter").is_dir(),
        "architecture": architecture(bundle),
        "serve": _below(bundle / "serve"),
        "scores": _score_rows(scores),
        "intervals": _intervals(manifest.get("intervals")),
        "counted": any(name.endswith("_micro_f1") for name, *_ in _score_rows(scores)),
        "lowest": _lowest(scores),
        "no_better": [name for name, b, t in _score_rows(scores) if b is not None and t <= b and b < 1],
        "data": data,
        "split": (recipe.get("data") or {}).get("split"),
        "screening": _screening(recipe, data),
        "settings": _settings(recipe),
        "seed": recipe.get("seed"),
        "text": recipe.get("stage") == "cpt",
        "chat": any((bundle / place / "chat_template.jinja").is_file() for place in (".", "adapter")),
        "task": "text-classification" if manifest.get("rewards") else "text-generation",
        "max_new_tokens": (recipe.get("evaluate") or {}).get("max_new_tokens"),
        "training": _whole(manifest.get("training"), TRAINING),
        "proof": _whole(manifest.get("merge_proof"), PROOF),
        "reward_proof": _whole(manifest.get("merge_proof"), REWARD_PROOF),
        "adapter_proof": manifest.get("adapter_proof") or {},
        "rewards": list(manifest.get("rewards") or ()),
        "versions": manifest.get("versions") or {},
        "environment": manifest.get("environment") or {},
        "git_commit": manifest.get("git_commit"),
        "example": _example(bundle),
        "in_bundle": lambda file: (bundle / file).exists(),
    }


def _whole(values: Mapping[str, Any] | None, keys: tuple[str, ...]) -> dict[str, Any]:
    """The part of a manifest that a section needs; empty, which leaves the section out, unless all of it is there."""
    return dict(values) if values and all(key in values for key in keys) else {}


def _licence(base: BaseModel, stated: str | None) -> dict[str, str]:
    """The front matter's keys: the recipe's word, else the base's, else `unknown`."""
    name, own, link = stated, None, None
    if name is None:
        name, own, link = base.licence.name or "unknown", base.licence.own_name, base.licence.link
    if name.lower() not in HUB_LICENCES:
        name, own = "other", name
    keys = {"license": name.lower(), "license_name": own, "license_link": link}
    return {key: value for key, value in keys.items() if value}


def _front_matter(facts: Mapping[str, Any]) -> str:
    """The hub's metadata (https://huggingface.co/docs/hub/model-cards#model-card-metadata)."""
    from huggingface_hub import EvalResult, ModelCardData

    base, template, data = facts["base"], facts["template"], facts["data"]
    dataset = template.get("name") or facts["name"]
    results = [
        EvalResult(
            task_type=facts["task"], dataset_type=dataset, dataset_name=f"{dataset}, held-out rows",
            dataset_split="held-out", metric_type=name, metric_name=name, metric_value=tuned,
        )
        for name, _base, tuned in facts["scores"]
    ]  # fmt: skip
    hub_sets = [source["name"].partition("@")[0] for source in data.get("sources", ()) if _on_hub(source)]
    merged = facts["merged"]
    content = ModelCardData(
        base_model=base.name if base.on_hub else None,
        base_model_relation=("finetune" if merged else "adapter") if base.on_hub else None,
        language=list(facts["card"]["language"] or ()) or None,
        library_name="transformers" if merged else "peft",
        pipeline_tag=facts["task"],
        tags=[facts["kind"], "peft", "finetune", *(["reward-model"] if facts["rewards"] else [])],
        datasets=hub_sets or None,
        metrics=[name for name, _base, _tuned in facts["scores"]] or None,
        model_name=facts["name"],
        eval_results=results or None,
        **facts["licence"],
    )
    if not results:
        content.pop("model_name")
    return content.to_yaml()


def _on_hub(source: Mapping[str, Any]) -> bool:
    """A hub data set is recorded as `owner/name@commit`, a file under its own name, which has no slash."""
    return "/" in source["name"] and not source["name"].startswith(("/", "."))


def _score_rows(scores: Mapping[str, Any]) -> list[tuple[str, float | None, float]]:
    base = scores.get("base") or {}
    return [(name, base.get(name), value) for name, value in (scores.get("tuned") or {}).items()]


def _intervals(recorded: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the manifest says of intervals, how many rows and groups they are of, and which differences hold 0.

    Empty where it says nothing, as those of older versions.
    """
    if not recorded:
        return {}
    unsure = [name for name, (low, high) in recorded["difference"].items() if low <= 0 <= high]
    return {
        **recorded, "rows": sum(recorded["rows"].values()), "groups": sum(recorded["groups"].values()), "unsure": unsure
    }  # fmt: skip


def _ends(ends: Mapping[str, Any], name: str) -> str:
    """The interval of a score, with a space before it; nothing where it has none."""
    return " [{:.3f}, {:.3f}]".format(*ends[name]) if name in ends else ""


def _lowest(scores: Mapping[str, Any], count: int = 3) -> list[tuple[str, float]]:
    """Where the tuned model is weakest: its lowest scores, below 1."""
    short = [(name, value) for name, value in (scores.get("tuned") or {}).items() if value < 1]
    return sorted(short, key=lambda item: item[1])[:count]


def _screening(recipe: Mapping[str, Any], data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """By setting: what was done with finds, how many rows had one, and of what kinds."""
    from finetune.data.screen import KINDS

    policies = (recipe.get("data") or {}).get("screen") or {}
    counts = data.get("screening") or {}
    rows = []
    for setting, kinds in KINDS.items():
        found = {kind: counts[kind] for kind in kinds if kind in counts}
        if setting in policies:
            positive = {kind: count for kind, count in found.items() if count}
            rows.append({"setting": setting, "policy": policies[setting], "looked": bool(found), "found": positive})
    return rows


def _settings(recipe: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [
        (f"{section}.{key}", recipe[section][key])
        for section, keys in SETTINGS
        for key in keys
        if section in recipe
        and recipe[section].get(key) not in (None, False)
        and not (key == "warmup_ratio" and recipe[section].get("warmup_steps") is not None)
    ]


def _example(bundle: Path) -> dict[str, Any] | None:
    """The data template's first worked example: the messages asked, and the answer that it declares right."""
    from finetune.data.rows import Row
    from finetune.data.template import load_template

    file = bundle / "data_template.yaml"
    if not file.is_file():
        return None
    template = load_template(file)
    first = template.examples[0]
    samples = template.render_chunk(
        [Row(first.row, str(file), 1)]
    ).samples  # one row need not have every nullable column
    sample = next((item for item in samples if item.answer == first.answer), None)
    if sample is None or not sample.prompt:
        return None
    ticks = max((len(run) for run in re.findall("`+", sample.answer)), default=0)
    prompt = pprint.pformat(list(sample.prompt), sort_dicts=False, width=110)  # a Python literal, whatever is in it
    tools = pprint.pformat(list(sample.tools), sort_dicts=False, width=110) if sample.tools else ""
    return {"prompt": prompt, "tools": tools, "answer": sample.answer, "fence": "`" * max(3, ticks + 1)}


def _below(folder: Path) -> list[str]:
    return sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir()) if folder.is_dir() else []
