"""`python -m tests.families.table --write`: every family through `finetune smoke`, and docs/families*.md of what came of it."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.recipefile import load_recipe
from finetune.smoke.command import smoke
from finetune.smoke.table import Table
from tests.conftest import ROOT, write_tiny_data, write_tiny_recipe
from tests.families.configs import FAMILIES

DOCS = {"en": ROOT / "docs/families.md", "zh": ROOT / "docs/families.zh-CN.md"}
BEGIN, END = "<!-- table: python -m tests.families.table --write -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Row:
    """What came of one family.

    Attributes:
        difference: largest logit difference between the merged model and the adapter on its base.
        packing: why not; empty where it packs.
        covered, uncovered: names of linear layers that `all-linear` gives an adapter, and that it does not.
        experts: `none`, `linear` (each expert's layers are linear layers of their own) or `fused` (one parameter); with
            `, left` where they have no adapter.
    """

    family: str
    architecture: str
    experts: str
    difference: float
    packing: str
    covered: tuple[str, ...]
    uncovered: tuple[str, ...]


def run_family(family: str, folder: Path) -> Row:
    """`finetune smoke` of the tests' own recipe on this family; raises what it raises where a step fails."""
    base = folder / "published"
    base.mkdir(parents=True)
    (base / "config.json").write_text(json.dumps(FAMILIES[family][1], indent=2), encoding="utf-8")
    write_tiny_data(folder)
    recipe = load_recipe(write_tiny_recipe(folder, base, folder, family))
    told: dict[str, Any] = {}
    table = Table(lambda line: None)
    bundle = smoke(recipe, folder / "smoke", table, told)
    assert [step.name for step in table.steps if step.status not in ("ok", "no")] == []
    manifest = json.loads((bundle / "MANIFEST.json").read_text(encoding="utf-8"))
    packing = next(step for step in table.steps if step.name == "packing")
    return Row(
        family,
        *trained(bundle.parents[1] / "base", bundle / "adapter"),
        max(told["proof"]["max_logit_difference"], told["reload_difference"]),
        packing.what if packing.status == "no" else "",
        *coverage(manifest["training"]["lora"]),
    )


def coverage(line: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names with and without an adapter, of the run's line about them."""
    on, without = re.search(r"; on (.*?); without: ([^;]*)", line).groups()  # type: ignore[union-attr]
    covered, rest = (re.findall(r"(\w+) x\d+", part) for part in (on, without))
    covered = ["router" if name == "weight" else name for name in covered]  # a parameter without a layer of its own
    return tuple(covered), tuple(rest)


def trained(base: Path, adapter: Path) -> tuple[str, str]:
    """The class that is trained, and how it holds its experts."""
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    inside = [parameter for name, parameter in model.named_parameters() if ".experts." in name]
    held = "none" if not inside else "fused" if any(parameter.ndim == 3 for parameter in inside) else "linear"
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        covered = any(".experts." in name for name in file.keys())  # noqa: SIM118
    return type(model).__name__, held if covered or held == "none" else f"{held}, left"


WORDS = {
    "en": {
        "head": "| Family | Class | Trained, resumed, merged, reloaded | Largest logit difference | Packing | "
        "`all-linear` covers | Experts |",
        "yes": "yes", "no": "no: ", "and not": "; others not: ", "none": "none", "linear": "linear layers of their own",
        "fused": "one parameter for all of a layer", "left": ", not covered (`lora.target_parameters`)",
        "tested": "Tested with transformers {} and peft {}.",
    },
    "zh": {
        "head": "| 系列 | 类 | 训练、续训、合并、重新加载 | 最大 logit 差 | 打包（packing） | `all-linear` 覆盖 | 专家 |",
        "yes": "可以", "no": "不可以：", "and not": "；未覆盖的其他层：", "none": "无", "linear": "各为独立的线性层",
        "fused": "每层合为一个参数", "left": "，未覆盖（用 `lora.target_parameters`）",
        "tested": "测试所用版本：transformers {}、peft {}。",
    },
}  # fmt: skip
REASONS = {  # what the probe says of packing, in Chinese
    "lets packed documents see each other: its linear_attention layers carry what they have read into the next document":
        "linear_attention 层会把读到的内容带进下一篇文档",
    "lets packed documents see each other: position_ids that start again do not separate them in this architecture":
        "position_ids 重新从零开始，在该结构中也不能把文档分开",
}  # fmt: skip


def rendered(row: Row, language: str) -> str:
    """The family's line."""
    words = WORDS[language]
    bound = next(limit for limit in ("1e-4", "1e-3") if row.difference < float(limit))
    reason = re.sub(r"^\w+ ", "", row.packing.partition(" (logits")[0])
    if language == "zh":
        reason = REASONS.get(reason, reason)
    packing = words["no"] + reason if row.packing else words["yes"]
    covers = ", ".join(row.covered) + (words["and not"] + ", ".join(row.uncovered) if row.uncovered else "")
    how, _, left = row.experts.partition(", ")
    held = words[how] + (words["left"] if left else "")
    title, proved = FAMILIES[row.family][0], f"< {bound}"
    cells = (title, f"`{row.architecture}`", words["yes"], proved, packing, covers, held)
    return f"| {' | '.join(cells)} |"


def table(rows: list[Row], language: str) -> str:
    """All of it, between its marks."""
    from importlib.metadata import version

    head = WORDS[language]["head"]
    rule = "|" + "---|" * (head.count("|") - 1)
    lines = [rendered(row, language) for row in rows]
    tested = WORDS[language]["tested"].format(version("transformers"), version("peft"))
    return "\n".join([BEGIN, "", head, rule, *lines, "", tested, "", END])


def written(language: str) -> str:
    """The table as the page has it."""
    text = DOCS[language].read_text(encoding="utf-8")
    return text[text.index(BEGIN) : text.index(END) + len(END)]


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        rows = []
        for family in FAMILIES:
            rows.append(run_family(family, Path(place) / family))
            print(rendered(rows[-1], "en"), flush=True)
    if "--write" in sys.argv:
        for language, page in DOCS.items():
            text = page.read_text(encoding="utf-8")
            page.write_text(text.replace(written(language), table(rows, language)), encoding="utf-8")


if __name__ == "__main__":
    main()
