"""The verdict: how the run ended, what its gate said, whether the merge is proven, and what that means in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from finetune.report.read import Run
from finetune.report.words import Said, ends, number

Tone = Literal["good", "bad", "warn", "plain"]
GATE = {
    "passed": Said("passed", "通过"),
    "failed": Said("failed", "未通过"),
    "none": Said("none set", "未设"),
    "unasked": Said("not asked", "未评估"),
}

STATES = {
    "finished": Said("finished", "已结束"),
    "failed": Said("failed", "失败"),
    "preempted": Said("stopped", "被停止"),
    "running": Said("not at its end", "尚未结束"),
    "": Said("unknown", "未知"),
}


@dataclass(frozen=True)
class Tile:
    """One fact beside the verdict: what it is, its value, and a line that explains it."""

    label: Said
    value: Said
    note: Said
    tone: Tone = "plain"


@dataclass(frozen=True)
class Verdict:
    """What stands first on the page.

    Attributes:
        sentence: what the main score says. reasons: why it failed or stopped, in the program's own words.
    """

    tone: Tone
    title: Said
    sentence: Said
    reasons: tuple[str, ...]
    tiles: tuple[Tile, ...]


def verdict_of(run: Run) -> Verdict:
    """Of a run in whatever state."""
    tone, title, reasons = _ending(run)
    return Verdict(tone, title, sentence_of(run), tuple(reasons), (_gate_tile(run), _merge_tile(run), _main_tile(run)))


def gate_of(run: Run) -> str:
    """A word of GATE."""
    if not run.release:
        return "unasked"
    if not run.release.get("checks"):
        return "none"
    return "passed" if run.release.get("passed") else "failed"


def _ending(run: Run) -> tuple[Tone, Said, list[str]]:
    """How it ended: tone, title, reasons."""
    gate, reason = gate_of(run), str(run.state.get("reason", ""))
    failed = [str(check["said"]) for check in run.release.get("checks") or () if not check["passed"]]
    if gate == "failed":
        return "bad", Said("Did not pass its gate", "未通过门槛"), failed
    if run.status == "failed":
        return "bad", Said("Failed before its end", "中途失败"), [reason or "no reason was written down"]
    if run.status == "preempted":
        return "warn", Said("Stopped before its end", "在结束前被停止"), [reason] if reason else []
    if run.status == "running":
        return "warn", Said("Not at its end", "尚未结束"), []
    if gate == "passed":
        return "good", Said("Passed its gate", "通过门槛"), []
    if gate == "none":
        return "plain", Said("Finished; no gate was set", "已结束；未设门槛"), []
    if not run.scores:
        return "plain", Said("Not evaluated", "未评估"), []
    return "plain", Said("Evaluated; no gate was asked", "已评估；未问门槛"), []


def sentence_of(run: Run) -> Said:
    """What the main score says of the tuned model, or why there is none."""
    name = run.main
    if name is None:
        step = run.step
        if run.status == "preempted":
            return Said(
                f"A signal ended it after step {step}; nothing was scored. The same command with --resume auto goes on.",
                f"第 {step} 步后被信号停止，尚未评分。用同一条命令加 --resume auto 继续。",
            )
        if run.status == "running":
            return Said(
                f"It is still running, or was killed; step {step} is the last that is known of. Nothing was scored yet.",
                f"仍在运行，或被强行终止；已知的最后一步是第 {step} 步。尚未评分。",
            )
        return Said(f"It ended after step {step}; nothing was scored.", f"结束于第 {step} 步，没有评分。")
    return _compared(run, name)


def _compared(run: Run, name: str) -> Said:
    base, tuned = run.score("base", name), run.score("tuned", name)
    if base is None or tuned is None:
        return Said(f"{name} of the tuned model: {number(tuned)}.", f"微调后的模型的 {name}：{number(tuned)}。")
    both, moved = run.ends("difference", name), tuned - base
    if not moved and both in (None, (0.0, 0.0)):
        return Said(
            f"{name}: base and tuned model both have {number(tuned)}, no difference at all.",
            f"{name}：基座与微调后的模型都是 {number(tuned)}，没有差别。",
        )
    en, zh = _weight(both)
    rows = (run.intervals.get("rows") or {}).get("")
    on, of = (f" on {rows} held-out rows", f"在 {rows} 条留出样本上，") if rows else ("", "")
    difference = f"{number(moved, True)} {ends(both, True)}".strip()
    return Said(
        f"{name}{on}: base {number(base)}, tuned {number(tuned)}; the difference of {difference} {en}.",
        f"{of}{name}：基座 {number(base)}，微调后 {number(tuned)}；差值 {difference}，{zh}。",
    )


def _weight(both: tuple[float, float] | None) -> Said:
    """What a difference is worth by its interval."""
    if both is None:
        return Said("has no interval, so chance is not ruled out", "没有区间，不能排除偶然")
    if both[0] > 0:
        return Said("is more than chance in the choice of rows", "大于抽样偶然：确有提高")
    if both[1] < 0:
        return Said("is a loss, and more than chance in the choice of rows", "大于抽样偶然：确有下降")
    return Said("may be chance: its interval includes 0", "可能出于偶然：区间包含 0")


def _gate_tile(run: Run) -> Tile:
    gate, checks = gate_of(run), run.release.get("checks") or []
    passed = sum(bool(check["passed"]) for check in checks)
    label = Said("Gate", "门槛")
    if gate == "unasked":
        return Tile(label, GATE[gate], Said("the run did not come to it", "运行没有走到这一步"), "warn")
    if gate == "none":
        return Tile(label, GATE[gate], Said("the recipe asks for nothing", "配方没有提出要求"))
    at = Said(" at the lower end", "，按区间下端") if run.release.get("confident") else Said("", "")
    note = Said(f"{passed} of {len(checks)} checks hold{at.en}", f"{len(checks)} 项检查中 {passed} 项成立{at.zh}")
    return Tile(label, GATE[gate], note, "good" if gate == "passed" else "bad")


def _merge_tile(run: Run) -> Tile:
    label, proof = Said("Merge", "合并"), proof_of(run)
    if proof is None:
        return Tile(label, Said("not made", "未进行"), Said("there is no bundle", "没有交付包"), "warn")
    kind, facts = proof
    if kind == "adapter":
        told = Said("the adapter on disk is the model that was scored", "磁盘上的适配器就是评分时的模型")
        return Tile(label, Said("none, by its method", "该方法不合并"), told)
    if not facts.get("limits") and not facts.get("limit"):
        note = Said("merged into another base; held to no limit", "合并进另一基座；不设上限")
        return Tile(label, Said("measured only", "仅测量"), note, "warn")
    if kind == "rewards":
        return Tile(label, Said("proven", "已证明"), Said(
            f"largest reward difference {facts['max_reward_difference']:.1e}",
            f"奖励最大差 {facts['max_reward_difference']:.1e}",
        ), "good")  # fmt: skip
    note = Said(
        f"same next token at {facts['greedy_agreement']:.2%} of {facts['positions']:,} positions",
        f"{facts['positions']:,} 个位置中 {facts['greedy_agreement']:.2%} 的下一个词元相同",
    )
    return Tile(label, Said("proven", "已证明"), note, "good")


def proof_of(run: Run) -> tuple[Literal["merge", "rewards", "adapter"], dict[str, Any]] | None:
    """Which proof the bundle has, and its numbers; None without a bundle."""
    if run.manifest.get("adapter_proof"):
        return "adapter", run.manifest["adapter_proof"]
    proof = run.manifest.get("merge_proof")
    if not proof:
        return None
    return ("rewards" if "max_reward_difference" in proof else "merge"), proof


def _main_tile(run: Run) -> Tile:
    name = run.main
    if name is None:
        return Tile(Said("Main score", "主要指标"), Said("not measured", "未测量"), Said("", ""), "warn")
    moved, tuned = run.ends("difference", name), run.score("tuned", name)
    tone: Tone = "plain" if moved is None or moved[0] <= 0 <= moved[1] else "good" if moved[0] > 0 else "bad"
    line = f"{number(run.score('base', name))} → {number(tuned)}"
    both = ends(run.ends("tuned", name))
    note = Said(f"tuned, 95 % {both}", f"微调后，95 % {both}") if both else Said("no interval", "没有区间")
    return Tile(Said(name, name), Said(line, line), note, tone)
