"""Runs against each other: what their recipes differ in, and what they came to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.report.curves import points_of
from finetune.report.read import Interval, Run
from finetune.report.verdict import GATE, STATES, gate_of, proof_of
from finetune.report.words import Said, number, small

PLACES = ("output_dir",)  # differs between any two runs, and says nothing
NOT_GIVEN = "–"


@dataclass(frozen=True)
class Difference:
    """A key of the resolved recipes, and its value in each run: as YAML would have it, a dash where it is not given."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """One thing about every run."""

    name: Said
    values: tuple[Said, ...]


@dataclass(frozen=True)
class Score:
    """One score of the tuned models, in the order of the runs: None where a run does not have it."""

    name: str
    values: tuple[float | None, ...]
    ends: tuple[Interval | None, ...]

    @property
    def moved(self) -> float | None:
        """The second run's less the first one's."""
        a, b = self.values[0], self.values[-1]
        return None if a is None or b is None or len(self.values) != 2 else b - a

    @property
    def apart(self) -> bool | None:
        """Whether the two intervals have nothing in common; None where one is missing."""
        a, b = self.ends[0], self.ends[-1]
        return None if a is None or b is None else a[1] < b[0] or b[1] < a[0]


def recipe_differences(runs: Sequence[Run]) -> list[Difference]:
    """Every key whose value is not the same in all runs whose recipe is known, in the order of the recipes."""
    flat = [dict(_flat(run.recipe)) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one if key not in PLACES)
    return [
        Difference(key, tuple(one.get(key, NOT_GIVEN) for one in flat))
        for key in keys
        if len({one.get(key, NOT_GIVEN) for one in flat if one}) > 1
    ]


def scores_of(runs: Sequence[Run]) -> list[Score]:
    """Every score of any of the runs."""
    names = dict.fromkeys(name for run in runs for name in run.scores.get("tuned", {}))
    return [
        Score(name, tuple(run.score("tuned", name) for run in runs), tuple(run.ends("tuned", name) for run in runs))
        for name in names
    ]


def facts_of(runs: Sequence[Run]) -> list[Fact]:
    """How each run ended and what it took, a row a fact."""
    told = [_facts(run) for run in runs]
    return [Fact(name, tuple(its[name] for its in told)) for name in told[0]]


def notes_of(runs: Sequence[Run]) -> list[Said]:
    """What makes a comparison unsure."""
    notes = []
    unknown = ", ".join(run.name for run in runs if not run.recipe)
    if unknown:
        notes.append(Said(
            f"no recipe is known of {unknown}: its folder has neither a bundle nor run.json",
            f"{unknown} 的配方未知：文件夹中既没有交付包，也没有 run.json",
        ))  # fmt: skip
    if len({_held_out(run) for run in runs if run.scores and run.recipe}) > 1:
        notes.append(Said(
            "data, split or seed differ: the runs may have been asked other held-out rows",
            "数据、划分或种子不同：各次运行评估的留出样本可能不同",
        ))  # fmt: skip
    if len({run.main for run in runs if run.main}) > 1:
        notes.append(Said("their first scores are not the same one", "它们的主要指标不是同一个"))
    return notes


def _held_out(run: Run) -> str:
    """What decides which rows are held out."""
    data = run.manifest.get("data") or run.about.get("data") or {}
    section = run.recipe.get("data") or {}
    rows = (run.recipe.get("evaluate") or {}).get("rows")
    files = [source.get("sha256") for source in data.get("sources", ())]
    return json.dumps([files, run.recipe.get("seed"), section.get("split"), rows, data.get("template_sha256")])


def _facts(run: Run) -> dict[Said, Said]:
    last = run.metrics.get("", [])
    training = run.manifest.get("training") or {}
    held_out, loss = points_of(last, "eval_loss")[1], points_of(last, "loss")[1]
    rates, memory = sorted(points_of(last, "tokens_per_second")[1]), points_of(last, "peak_memory_gib")[1]
    told = {
        Said("last loss", "最后的损失"): number(loss[-1]) if loss else NOT_GIVEN,
        Said("least held-out loss", "最低留出损失"): number(min(held_out)) if held_out else NOT_GIVEN,
        Said("training, seconds", "训练，秒"): f"{training['seconds']:g}" if "seconds" in training else NOT_GIVEN,
        Said("tokens a second, median", "词元每秒，中位数"): f"{rates[len(rates) // 2]:.0f}" if rates else NOT_GIVEN,
        Said("peak memory, GiB", "内存峰值，GiB"): f"{max(memory):.2f}" if memory else NOT_GIVEN,
        Said("adapter", "适配器"): str(training.get("lora", NOT_GIVEN)).partition(";")[0],
    }
    ended = Said(f"{run.status or 'unknown'}, step {run.step}", f"{STATES[run.status].zh}，第 {run.step} 步")
    first = {Said("state", "状态"): ended, Said("gate", "门槛"): GATE[gate_of(run)], Said("merge", "合并"): _merge(run)}
    return first | {name: Said(value, value) for name, value in told.items()}


def _merge(run: Run) -> Said:
    proof = proof_of(run)
    if proof is None:
        return Said("no bundle", "没有交付包")
    kind, told = proof
    key = {"merge": "max_logit_difference", "rewards": "max_reward_difference"}.get(kind)
    if key is None:
        return Said("none, by its method", "该方法不合并")
    how = Said("proven", "已证明") if told.get("limits") or told.get("limit") else Said("measured only", "仅测量")
    what = Said(key.replace("_", " "), {"merge": "logit 最大差", "rewards": "奖励最大差"}[kind])
    return Said(f"{how.en}, {what.en} {small(told[key])}", f"{how.zh}，{what.zh} {small(told[key])}")


def _flat(told: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value as JSON would have it) of everything in a resolved recipe."""
    if isinstance(told, list) and told and all(isinstance(one, Mapping) for one in told):
        told = {str(place): one for place, one in enumerate(told)}
    if told is None:  # as good as not given
        return
    if not isinstance(told, Mapping):
        yield before, told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)
        return
    for key, value in told.items():
        yield from _flat(value, f"{before}.{key}" if before else str(key))
