"""What became of the rows: read, dropped, copies, leaks, personal data; from the manifest, or from run.json without one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.data.screen import KINDS
from finetune.report.read import Run
from finetune.report.words import Said

GROUPS = {
    "exact_duplicates": Said("copies", "完全重复"),
    "near_duplicates": Said("near copies", "近似重复"),
    "train_eval_overlap": Said("held-out rows among those to train on", "训练样本与留出样本重叠"),
    "benchmark_overlap": Said("rows of benchmarks", "与公开基准重叠"),
    "personal_data": Said("personal data", "个人信息"),
    "secrets": Said("secrets", "密钥"),
}
POLICIES = {
    "drop": Said("rows dropped", "丢弃该行"),
    "error": Said("a find stops the run", "发现即停止"),
    "report": Said("counted only", "仅计数"),
    "redact": Said("redacted", "已打码"),
    "off": Said("not looked for", "未检查"),
}


@dataclass(frozen=True)
class Screened:
    """What one setting of `data.screen` looked for: how many it found (None: nobody looked), of which kinds."""

    setting: str
    name: Said
    found: int | None
    kinds: tuple[tuple[str, int], ...]
    policy: Said


@dataclass(frozen=True)
class Part:
    """The data of a run, or of one stage of a chain (by its `name`)."""

    name: str
    record: dict[str, Any]
    screened: list[Screened]


def parts_of(run: Run) -> list[Part]:
    """Of every stage in turn; empty where neither manifest nor run.json tells."""
    last = run.manifest.get("data") or run.about.get("data")
    before = {told["name"]: told["data"] for told in (run.manifest.get("training") or {}).get("stages", ())}
    before = before or run.about.get("data_before") or {}
    found = [*before.items(), *([("", last)] if last else [])]
    return [
        Part(name.rpartition(".")[2], record, _screened(record, _policies(run.recipe, name))) for name, record in found
    ]


def _screened(record: Mapping[str, Any], policies: Mapping[str, Any]) -> list[Screened]:
    counts = record.get("screening") or {}
    found = []
    for setting, name in GROUPS.items():
        its = {kind: counts[kind] for kind in KINDS[setting] if kind in counts}
        policy = POLICIES.get(str(policies.get(setting, "" if its else "off")), Said("", ""))
        kinds = tuple((kind.replace("_", " "), number) for kind, number in its.items() if number)
        found.append(Screened(setting, name, sum(its.values()) if its else None, kinds, policy))
    return found


def _policies(recipe: Mapping[str, Any], stage: str) -> Mapping[str, Any]:
    """`data.screen` of the recipe, or of one stage of a chain."""
    stages = [*recipe.get("stages", ()), *recipe.get("mixture", ())]
    own = next((one for one in stages if one.get("name") == stage.rpartition(".")[2]), stages[-1] if stages else recipe)
    return (own.get("data") or {}).get("screen") or {}


def cleaner_policies(recipe: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether personal data, and secrets, are looked for by any stage of this recipe; yes where it is not known."""
    every = [recipe, *recipe.get("stages", ()), *recipe.get("mixture", ())]
    screens = [screen for one in every if (screen := (one.get("data") or {}).get("screen"))]
    return (
        not screens or any(screen.get("personal_data") != "off" for screen in screens),
        not screens or any(screen.get("secrets") != "off" for screen in screens),
    )
