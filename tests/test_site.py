"""The site of docs/ in both languages: it builds strictly, every page is there twice, and it needs no other server."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT

CONFIG = ROOT / "scripts/site/mkdocs.yml"
PAGES = sorted(
    file.relative_to(ROOT / "docs") for file in (ROOT / "docs").rglob("*.md") if not file.name.endswith(".zh-CN.md")
)


def hook(markdown: str, page: str = "x.zh-CN.md", repository: str = "") -> str:
    spec = importlib.util.spec_from_file_location("site_hooks", CONFIG.parent / "hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    here = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    return module.on_page_markdown(
        markdown, here, SimpleNamespace(extra={"repository": repository}, docs_dir=str(ROOT / "docs")), None
    )


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("# T\n\n[English](x.md)\n\nText", "# T\n\nText"),
        ("[a](lora.zh-CN.md#rank)", "[a](lora.md#rank)"),
        ("[`r.yaml`](../recipes/r.yaml), [b](https://x.example/y.zh-CN.md)", "`r.yaml`, [b](https://x.example/y.zh-CN.md)"),
        ("- a\n  - b\n   1. c\n  d", "- a\n    - b\n    1. c\n  d"),
        ("```\n  - a\n[b](../c)\n```\n[d](#e)", "```\n  - a\n[b](../c)\n```\n[d](#e)"),
        ("[lora.zh-CN.md](lora.zh-CN.md)", "[LoRA：变体、目标、共享层、专家](lora.md)"),
        ("[one](../a) and [two](b.md)", "one and [two](b.md)"),
    ],
)  # fmt: skip
def test_what_the_site_makes_of_a_documents_text(written, read):
    assert hook(written) == read


def test_links_out_of_docs_lead_to_the_repository_where_there_is_one():
    told = hook("[a](../../recipes/mining/a.yaml)", "packs/mining.md", "https://git.example/blob/main/")
    assert told == "[a](https://git.example/blob/main/recipes/mining/a.yaml)"


@pytest.mark.slow
def test_it_builds_strictly_in_both_languages(tmp_path):
    """Strict: a page that the navigation forgot, a link or an anchor that leads nowhere ends the build."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(CONFIG), "-d", str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, (
        "\n".join(line for line in done.stderr.splitlines() if "WARNING" in line) or done.stderr
    )
    assert len(PAGES) > 50
    for page in PAGES:
        place = page.with_suffix("") if page.name != "index.md" else page.parent
        for language, folder in (("en", ""), ("zh", "zh-CN")):
            file = tmp_path / "site" / folder / place / "index.html"
            text = file.read_text(encoding="utf-8")
            assert f'<html lang="{language}"' in text, file
            body = text[text.index("<article") : text.index("</article>")]
            assert not re.search(r"\.zh-CN\.md<|>(English|中文)</a>", re.sub(r"<code>.*?</code>", "", body)), file
            loaded = re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(https?:[^"]+)"', text)
            assert loaded == [], file
    index = json.loads((tmp_path / "site/search/search_index.json").read_text(encoding="utf-8"))
    titles = {entry["location"]: entry["title"] for entry in index["docs"]}
    assert titles["zh-CN/air_gapped/"].split("\u200b")[-1] == "机器" and "\u200b" not in titles["air_gapped/"]


@pytest.mark.parametrize("name", ["troubleshooting.md", "troubleshooting.zh-CN.md"])
def test_the_messages_of_the_troubleshooting_page_are_those_of_the_code(name):
    """The first cell of each row is part of a message; both languages have the same, in the same order."""
    told, english = (
        re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)
        for page in (name, "troubleshooting.md")
    )
    source = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "finetune").rglob("*.py"))
    assert told == english and len(told) > 30
    assert [message for message in told if message not in source] == []
