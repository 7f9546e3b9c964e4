"""The README of an import: what the rows are, where they come from, what was done, in English and Chinese."""

from __future__ import annotations

from typing import Any

from finetune.feedback.rating import BY_HAND
from finetune.feedback.reasons import REASONS

WHAT = {
    "sft.jsonl": ("conversations to train on (stage sft)", "用于训练的对话（sft 阶段）"),
    "preference.jsonl": ("a better and a worse answer to one prompt (stages dpo, orpo, simpo, reward)",
                         "同一提示的较好与较差回答（dpo、orpo、simpo、reward 阶段）"),
    "labelled.jsonl": ("answers found good or bad (stage kto)", "标为好或差的回答（kto 阶段）"),
    "left_out.jsonl": ("log rows that gave nothing, with the reason", "未采用的日志行及原因"),
    "lineage.jsonl": ("where every row comes from and what was done", "每一行的来源与处理"),
}  # fmt: skip
POLICY = {
    "redact": ("replaced by labels such as [PHONE]; rows with it in the answer only are left out",
               "替换为 [PHONE] 等标签；只出现在回答中的行不采用"),
    "drop": ("rows that have it are left out", "含有的行不采用"),
    "error": ("none was found", "未发现"),
    "off": ("NOT looked for", "未检查"),
}  # fmt: skip


def datasheet(record: dict[str, Any]) -> str:
    """The page of what feedback.json says."""
    return f"# Data from served conversations\n\n{_english(record)}\n# 来自线上对话的数据\n\n{_chinese(record)}"


def _english(record: dict[str, Any]) -> str:
    counts, settings = record["counts"], record["settings"]
    recipe = settings["recipe"]
    logs, models = len(record["logs"]), ", ".join(record["models"]) or "an unnamed model"
    lines = [
        f"Made by `finetune feedback import` {record['finetune']} out of {counts['lines']} lines of {logs} log "
        f"file{'s' * (logs > 1)}; answers of {models}.",
        "",
        _table(record, 0),
        f"Rows of the logs: {counts['rows']}; used {counts['used']}, left out {counts['left_out']}"
        + (":" if record["left_out"] else "."),
        "",
        *(f"- {reason}: {count} ({REASONS[reason]})" for reason, count in record["left_out"].items()),
        *([""] if record["left_out"] else []),
        f"- Ratings: {_scale(record) or 'words only'}. People who judged: {counts['raters'] or 'not logged'}.",
        f"- Personal data: {POLICY[settings['personal_data']][0]}. Secrets: {POLICY[settings['secrets']][0]}. Names and "
        "addresses are not found by any of this.",
        f"- Prompts that are held out: {f'those of {recipe} are not in here' if recipe else 'not compared with any recipe'}.",
        "- Who judges is not a fair sample of who asks, and a good rating is no proof that an answer is right.",
        "- Whether the people in these conversations agreed to this use, only you can say.",
        "",
    ]
    return "\n".join(lines)


def _chinese(record: dict[str, Any]) -> str:
    counts, settings = record["counts"], record["settings"]
    recipe = settings["recipe"]
    lines = [
        f"由 `finetune feedback import` {record['finetune']} 从 {len(record['logs'])} 个日志文件、共 {counts['lines']} 行生成；"
        f"回答来自 {'、'.join(record['models']) or '未记录的模型'}。",
        "",
        _table(record, 1),
        f"日志共 {counts['rows']} 行：采用 {counts['used']} 行，未采用 {counts['left_out']} 行"
        + (
            "：" + "，".join(f"{reason} {count}" for reason, count in record["left_out"].items())
            if record["left_out"]
            else ""
        )
        + "。",
        "",
        f"- 评分：{_scale(record) or '只有文字评分'}。评分人数：{counts['raters'] or '未记录'}。",
        f"- 个人信息：{POLICY[settings['personal_data']][1]}。密钥：{POLICY[settings['secrets']][1]}。姓名和住址不在检测之列。",
        f"- 留出的提示：{f'不含 {recipe} 的留出提示' if recipe else '未与任何 recipe 比对'}。",
        "- 愿意评分的人不能代表全部用户；评分高也不证明回答正确。",
        "- 对话中的人是否同意这样使用，只有您能回答。",
        "",
    ]
    return "\n".join(lines)


def _table(record: dict[str, Any], language: int) -> str:
    head = (("file", "rows", "what"), ("文件", "行数", "内容"))[language]
    rows = [f"| {' | '.join(head)} |", "|---|---|---|"]
    rows += [
        f"| `{name}` | {record['files'][name]['rows']} | {what[language]} |"
        for name, what in WHAT.items()
        if name in record["files"]
    ]
    return "\n".join([*rows, ""])


def _scale(record: dict[str, Any]) -> str:
    settings, numbers = record["settings"], record["numbers_read_as"]
    said = [f"{name} {', '.join(settings[name])}" for name in ("good", "bad") if settings[name]]
    return "; ".join([*([numbers] if numbers and numbers != BY_HAND else []), *said])
