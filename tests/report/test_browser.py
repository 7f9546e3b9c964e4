"""Both pages in a real browser: no error, no request, nothing wider than the window, all text readable, both languages."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.report.page import write_report
from tests.report.chromium import Chromium, find_chromium
from tests.report.test_report import rewrite, write_answers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium here; on Debian: apt-get install chromium"),
]

# Every piece of text that is seen, whose contrast with what is behind it (WCAG 2.2, 1.4.3) is too low.
TOO_FAINT = """(() => {
  const parse = (c) => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => {
    v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] === 1) return c; }
    return [255, 255, 255]; };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const faint = []; let seen = 0;
  for (let node; (node = walker.nextNode());) {
    const e = node.parentElement;
    if (!node.textContent.trim() || !e.getClientRects().length) continue;
    seen += 1;
    const style = getComputedStyle(e);
    const ink = light(parse(e.closest("svg") ? style.fill : style.color)), paper = light(behind(e));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (ratio < 4.5) faint.push([ratio.toFixed(2), node.textContent.trim().slice(0, 40)]);
  }
  return [seen, faint];
})()"""
# What sticks out of the window to the right, but for what scrolls by itself.
TOO_WIDE = """[document.documentElement.scrollWidth - innerWidth,
  [...document.querySelectorAll("main *")].filter((e) => !e.closest(".scroll, pre, svg")
    && e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.outerHTML.slice(0, 80))]"""
SHOWN = "[...document.querySelectorAll('.{}')].filter((e) => e.getClientRects().length).length"
SCORES = {"exact": (0.12, 0.95), "field/a_rather_long_name_of_a_field": (0.5, 0.41), "finished": (0.9, 0.9),
          "general/right": (0.8, 0.7), "safety/refused": (0.6, 0.7), "no_number_made_up": (0.4, 0.9)}  # fmt: skip


@pytest.fixture(scope="module")
def pages(finished_run, tmp_path_factory) -> dict[str, Path]:
    """The report of a run in which everything was measured, of one that was stopped, and the page of both."""
    recipe, _ = finished_run
    runs = tmp_path_factory.mktemp("runs")
    heavy = shutil.ignore_patterns("*.safetensors", "checkpoints")
    whole = Path(shutil.copytree(recipe.output_dir, runs / "whole", ignore=heavy))
    scores = {who: {name: both[place] for name, both in SCORES.items()} for place, who in enumerate(("base", "tuned"))}
    near = {
        who: {name: [max(0, value - 0.04), min(1, value + 0.04)] for name, value in its.items()}
        for who, its in scores.items()
    }
    moved = {name: [after - before - 0.05, after - before + 0.05] for name, (before, after) in SCORES.items()}
    intervals = {"rows": {"": 40, "general": 80}, "groups": {"": 9, "general": 80}} | near | {"difference": moved}
    (whole / "scores.json").write_text(json.dumps({"scores": scores, "intervals": intervals}))
    checks = [{"key": "gate.min.exact", "passed": True, "said": "gate.min.exact: 0.9500 is not below 0.9000"},
              {"key": "gate.max_drop.general/right", "passed": False, "said": "more than 0.0500 lower"}]  # fmt: skip
    rewrite(whole / "release.json", checks=checks, passed=False, suites=["general", "safety"])
    write_answers(whole, [
        ("风速？\n" + "KMSP220153Z" * 30, "风速 12 节\nwind 270", "风速 14 节", "风速 12 节\nwind 280"),
        ("q", "a", "a", "b"), ("q", "a", "b", "a"), ("q", "a", "a", "a"),
    ])  # fmt: skip
    stopped = runs / "stopped"
    stopped.mkdir()
    shutil.copy(whole / "metrics.jsonl", stopped)
    (stopped / "run_state.json").write_text('{"status": "preempted", "step": 5, "reason": "SIGTERM after step 5"}')
    assert main(["runs", str(runs), "--html", str(runs / "runs.html")]) == 0
    return {"whole": write_report(whole), "stopped": write_report(stopped), "runs": runs / "runs.html"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Chromium(str(find_chromium()), tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", ["whole", "stopped", "runs"])
def test_a_page_fits_its_window_and_can_be_read(browser, pages, tmp_path, name, width, dark):
    browser.open(pages[name], width, dark)
    for language, other in (("en", "zh"), ("zh", "en")):
        browser.ask(f"document.querySelector('label[for={language}]').click()")
        assert browser.ask(SHOWN.format(language)) > 20 and browser.ask(SHOWN.format(other)) == 0
        assert browser.ask(TOO_WIDE) == [0, []]
        seen, faint = browser.ask(TOO_FAINT)
        assert seen > 60 and faint == []
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == (
        "rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)"
    )
    browser.picture(tmp_path / "page.png")
    assert struct.unpack(">I", (tmp_path / "page.png").read_bytes()[16:20])[0] == width


def test_a_page_asks_for_nothing_and_complains_of_nothing(browser, pages):
    """Of all that was opened so far, and of printing: one request a page, for itself; not a word on the console."""
    browser.open(pages["whole"], 1000, dark=False)
    assert len(browser("Page.printToPDF", printBackground=True)["data"]) > 10_000
    asked = {
        event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"
    }
    assert {url for url in asked if not url.startswith("data:")} <= {page.as_uri() for page in pages.values()}
    loud = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert [event["params"] for event in browser.events if event["method"] in loud] == []
