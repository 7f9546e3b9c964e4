"""What every pack has: recipes for a CPU, one GPU and one Ascend node, a page in two languages, what it is not for."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.commands import command_parser
from finetune.recipe import resolved
from finetune.recipefile import load_recipe
from finetune.run import Extent, run
from scripts.make.__main__ import tasks
from tests.conftest import ROOT
from tests.test_shipped import commands, small

PACKS = sorted(file.parent.name for file in (ROOT / "recipes").glob("*/pack_gpu.yaml"))
PAGES = {
    "md": ["## Run it", "## On real data", "## Must not be used for", "## Known limits"],
    "zh-CN.md": ["## 运行", "## 用真实数据", "## 不得用于", "## 已知局限"],
}


def recipes(pack: str) -> list[Path]:
    return sorted((ROOT / "recipes" / pack).glob("*.yaml"))


def test_the_packs_were_found():
    assert PACKS == [
        "education", "finance", "government", "manufacturing", "medical", "meteorology", "mining", "pharma", "power",
        "remote_sensing", "security",
    ]  # fmt: skip


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("language", PAGES)
def test_the_page_names_every_recipe_and_what_it_may_not_be_used_for(pack, language):
    page = (ROOT / f"docs/packs/{pack}.{language}").read_text(encoding="utf-8")
    assert re.findall(r"^## .*$", page, re.MULTILINE) == PAGES[language]
    unnamed = [file.stem for file in recipes(pack) if not re.search(rf"(?<![a-z_]){file.stem}(?![a-z_])", page)]
    assert not unnamed


@pytest.mark.parametrize("pack", PACKS)
def test_the_page_s_commands_are_understood(pack):
    """Their spelling, their recipes and their tasks; the pages say which of them were run on real data."""
    pages = [ROOT / f"docs/packs/{pack}.{language}" for language in PAGES]
    found = [shlex.split(line) for line in commands(pages)]
    assert any(words[:2] == ["finetune", "train"] for words in found)
    for words in found:
        if words[0] == "finetune":
            command_parser().parse_args(words[1:])
        if words[:3] == ["python", "-m", "scripts.make"]:
            assert words[3] in tasks()
        for word in words:
            assert not word.startswith(("recipes/", "scripts/")) or (ROOT / word).is_file(), word


@pytest.mark.parametrize("pack", PACKS)
def test_every_recipe_says_what_it_is_for_and_not_for(pack):
    for file in recipes(pack):
        card = load_recipe(file).card
        assert card.intended_use and card.limits and len(card.limits) > 60, file


@pytest.mark.parametrize("pack", PACKS)
def test_the_node_trains_what_the_gpu_trains(pack):
    """Only names, the device, its optimizer and the engine that serves it differ."""
    folder = ROOT / "recipes" / pack
    gpu, npu = (resolved(load_recipe(folder / f"pack_{device}.yaml")) for device in ("gpu", "npu"))
    assert npu["device"] == "npu" and npu["export"]["targets"][0]["engine"] == "vllm-ascend"
    for one in (gpu, npu):
        for part in (one, *one.get("mixture", ())):
            for key in ("name", "output_dir", "device"):
                part.pop(key, None)
            part.get("train", {}).pop("optim", None)
            part.get("export", {}).pop("targets", None)
    assert gpu == npu


@pytest.mark.slow
@pytest.mark.parametrize("pack", PACKS)
def test_the_whole_pack_runs_to_a_bundle(pack, tiny_base, tiny_tool_base, tmp_path):
    """All rows are checked for both machines; on eight of each part it trains, for two steps."""
    folder = ROOT / "recipes" / pack
    for device in ("gpu", "npu"):
        assert main(["check", str(folder / f"pack_{device}.yaml")]) == 0
    told = (folder / "pack_gpu.yaml").read_text(encoding="utf-8")
    templates = [(folder / found).resolve() for found in re.findall(r"\S+data_templates/\S+\.yaml", told)]
    assert templates
    tools = any("\ntools:" in file.read_text(encoding="utf-8") for file in templates)
    settings = small(tiny_tool_base if tools else tiny_base, tmp_path / "run", folder / "pack_gpu.yaml")[1::2]
    result = run(load_recipe(folder / "pack_gpu.yaml", [*settings, "export.targets=[]"]), extent=Extent(rows=8))
    assert (result.bundle / "MANIFEST.json").is_file()
