"""The audit's files: a page that data can't break, that loads nothing, and that shows nobody's number."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from finetune.data.audit import collect
from finetune.data.audit_page import Bar, draw, to_html, write
from finetune.data.audit_types import AuditSource, Faults, Lengths, Subject
from finetune.data.chat import ChatEncoder
from finetune.data.screen import Finding, look
from finetune.data.spool import SampleFile
from finetune.recipe_data import ScreenSection
from tests.conftest import byte_tokenizer
from tests.data.test_audit import STOP, conversation, example


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def subject(tokenizer):
    return Subject("demo", tokenizer, 100, frozenset({STOP}), {"train": 3, "eval": 1}, {"recipe": "sha256:ab12"})


class Tags(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self.text += " " if tag in ("td", "th", "li") else ""

    def handle_data(self, data):
        self.text += data


def page_of(audit) -> Tags:
    return Tags(to_html(audit))


def test_the_page_says_what_was_checked_and_found(subject):
    """T45: the reasons on top, kinds with nothing found and kinds nobody looked for, the middle of a long sample."""
    leak = Finding("prompt_overlap", "a:1", "e:1", "the same prompt, another answer", "refused")
    faults = Faults(findings=[leak], counts={"prompt_overlap": 1, "raw_overlap": 0})
    audit = collect(subject, [AuditSource("a", 1, [example(6100, "a:1")])], faults)
    text = " ".join(page_of(audit).text.split())
    assert "Failed refused by data.screen.train_eval_overlap: 1 samples longer than data.max_length: 1 1samples" in text
    assert "raw overlap data.screen.train_eval_overlap 0 normalised overlap" in text
    assert "prompt overlap data.screen.train_eval_overlap 1 refused" in text
    assert "near duplicate data.screen.near_duplicates not looked for" in text
    assert "… 100 tokens left out here …" in text
    unchecked = collect(replace(subject, stop_ids=frozenset()), [AuditSource("a", 1, [example(9, "a:1")])], Faults())
    assert "1 trained turns. They end in: <|im_end|> 1." in text
    text = page_of(unchecked).text
    assert "Ends of turns are not checked" in text
    assert "Passed Nothing here stops a run." in text


def test_the_same_audit_gives_the_same_bytes(subject, tmp_path):
    files = []
    for folder in ("1", "2"):
        audit = collect(subject, [AuditSource("a", 9, [example(10 + n, f"a:{n}") for n in range(9)])], Faults())
        files.append([file.read_bytes() for file in write(audit, tmp_path / folder)])
    assert files[0] == files[1]


def test_the_histogram_in_svg_units():
    """Two bars over 0-99 and 100-199 on an axis that reaches 200 + 100 = 300; 56 to 744 is 688 wide, 26 to 196 is 170
    high: 1 of 2 samples is 85. A max_length of 1,000 would leave the axis empty, so it is not on it."""
    lengths = Lengths(3, 50, 50, 0.0, 150, 150, 150, 100, (2, 1))
    chart = draw(lengths, 200)
    assert chart.bars == (
        Bar(56.0, 26.0, 228.3, 170.0, "0 to 99 tokens: 2 samples"),
        Bar(285.3, 111.0, 228.4, 85.0, "100 to 199 tokens: 1 samples"),
    )
    assert chart.limit == 514.7
    unlimited = draw(lengths, 1000)
    assert unlimited.limit is None
    assert unlimited.x_ticks == ((56.0, "0"), (228.0, "50"), (400.0, "100"), (572.0, "150"), (744.0, "200"))
    assert unlimited.y_ticks == ((196.0, "0"), (111.0, "1"), (26.0, "2"))


HOSTILE = "<script>alert(1)</script><img src=x onerror='a()'>\"\u202e\u200b</div>"


def test_text_of_the_data_never_becomes_markup(subject, tokenizer, tmp_path):
    """T47: in an answer, a file name, a reason, a note, a licence, a hash: shown as text, the invisible spelt out."""
    item = ChatEncoder(tokenizer).encode(conversation(HOSTILE, HOSTILE, HOSTILE))[0]
    source = AuditSource(HOSTILE, 1, [item], (), HOSTILE, HOSTILE, HOSTILE, [HOSTILE])
    found = Finding("benchmark_overlap", HOSTILE, HOSTILE, HOSTILE, "refused")
    hostile = replace(subject, name=HOSTILE, hashes={HOSTILE: HOSTILE}, splits={HOSTILE: 1}, notes=[HOSTILE])
    audit = collect(hostile, [source], Faults([(HOSTILE, HOSTILE)], [HOSTILE], [found]))
    written = write(audit, tmp_path / "audit")[1].read_text(encoding="utf-8")
    page = Tags(written)
    allowed = {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "div", "span", "b", "i", "br", "ul",
        "li", "nav", "a", "table", "tr", "th", "td", "svg", "g", "line", "rect", "text", "section", "header", "footer",
        "code", "wbr",
    }  # fmt: skip
    assert {tag for tag, _ in page.tags} - allowed == set()
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "\u202e" not in written
    assert "\u200b" not in written
    assert "⟨U+202E⟩⟨U+200B⟩" in page.text
    shown = re.sub(r"\s", "", page.text.partition("assistant⏎")[2])
    assert shown.startswith("<script>alert(1)</script><img·src=x·onerror='a()'>\"U+202EU+200B</div><|im_end|>")


def test_the_page_loads_and_runs_nothing(subject):
    """One self-contained file: no address in any attribute or style, and a policy that would forbid loading it."""
    page = to_html(collect(subject, [AuditSource("http://a.b/c.jsonl", 1, [example(10, "http://a.b/c:1")])], Faults()))
    tags = Tags(page)
    links = [value for _, attributes in tags.tags for name, value in attributes.items() if name in ("href", "src")]
    assert links
    assert all(link.startswith("#") for link in links)
    ids = {attributes["id"] for _, attributes in tags.tags if "id" in attributes}
    assert {link[1:] for link in links} <= ids
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert not re.search(r"url\(|@import|http", style)
    assert not {tag for tag, _ in tags.tags} & {"script", "link", "iframe", "object", "embed", "img", "base", "form"}
    policy = {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"}
    assert ("meta", policy) in tags.tags


def test_personal_data_is_nowhere_in_full(subject, tokenizer, tmp_path):
    """T45: the row with a number is counted, named and never shown, nor is a number that a reason quotes; a redacted
    row is shown."""
    encoder = ChatEncoder(tokenizer)
    samples = [conversation("电话 13812345678", "好", "a:1"), conversation("风速 12 kt", "好", "a:2")]
    result = look(SampleFile.of(samples), SampleFile.of([]), ScreenSection(personal_data="report"))
    faults = Faults(
        [("a:3", "phone: '13912345678' does not match '[0-9]{8}'")],
        ["a:4: phone: '13912345678' is missing"],
        result.findings,
        result.counts,
    )
    audit = collect(subject, [AuditSource("a", 4, [encoder.encode(s)[0] for s in result.train])], faults)
    numbers, page = (file.read_text(encoding="utf-8") for file in write(audit, tmp_path))
    for text in (numbers, page, Tags(page).text, repr(audit)):
        assert "13812345678" not in text
        assert "13912345678" not in text
    assert audit.counts["personal_data"]["phone"] == 1
    assert ([item.where for item in audit.shown], audit.hidden) == (["a:2"], 1)
    assert audit.dropped[0].reason == "phone: '[PHONE]' does not match '[0-9]{8}'"
    assert "138…78 (11 characters)" in Tags(page).text

    redacted = look(SampleFile.of(samples), SampleFile.of([]), ScreenSection(personal_data="redact"))
    source = AuditSource("a", 2, [encoder.encode(s)[0] for s in redacted.train])
    audit = collect(replace(subject, max_length=200), [source], Faults(findings=redacted.findings))
    assert ({item.where for item in audit.shown}, audit.hidden) == ({"a:1", "a:2"}, 0)
    assert "[PHONE]" in "".join(text.text for item in audit.shown if item.where == "a:1" for text in item.head)


def test_json_has_everything_and_the_page_the_first_200(subject, tmp_path):
    dropped = [(f"a:{n}", f"{n} tokens, 100 allowed") for n in range(101, 401)]
    audit = collect(subject, [AuditSource("a", 301, [example(10, "a:1")])], Faults(dropped))
    numbers, page = write(audit, tmp_path)
    content = json.loads(numbers.read_text(encoding="utf-8"))
    assert [row["where"] for row in content["dropped"]] == [where for where, _ in dropped]
    assert (content["format"], content["name"], content["failed"], content["reasons"]) == (1, "demo", False, [])
    assert content["lengths"]["bins"] == [0] * 10 + [1]
    assert content["hashes"] == {"recipe": "sha256:ab12"}
    shown = content["shown"]
    assert [(row["where"], row["source"], row["tokens"], row["trained"]) for row in shown] == [("a:1", "a", 10, 2)]
    assert set(shown[0]) == {"where", "source", "format", "sha256", "tokens", "trained"}
    text = Tags(page.read_text(encoding="utf-8")).text
    assert "300 tokens, 100 allowed" in text
    assert "301 tokens, 100 allowed" not in text
    assert "The first 200 of 300; audit.json has them all." in text
    assert "… tokens, … allowed 300 " in text


@pytest.mark.slow
def test_a_large_set_gives_a_page_under_two_megabytes(subject, tokenizer, tmp_path):
    """40 sources of long rows, 1,000 rows dropped, 1,000 finds, 1,000 problems, each of 2,000 characters."""
    encoder = ChatEncoder(tokenizer)
    long = encoder.encode(conversation("雨 & <b> " * 300, "\t 雪\n" * 200, "a:1"))[0]
    sources = [
        AuditSource(f"file{k}.jsonl", 8, (replace(long, where=f"f{k}:{n}") for n in range(8))) for k in range(40)
    ]
    reasons = [(f"f:{n}", f"<{n}>" * 400) for n in range(1000)]
    kinds = ("raw_duplicate", "raw_overlap", "email", "api_key")
    findings = [Finding(kind, f"f:{n}", f"g:{n}", "&" * 2000, "reported") for n in range(250) for kind in kinds]
    problems = [f"f:{n}: {'<' * 2000}" for n in range(1000)]
    audit = collect(replace(subject, max_length=9000), sources, Faults(reasons, problems, findings))
    numbers, page = write(audit, tmp_path)
    assert len(audit.shown) == 24
    assert page.stat().st_size < 2_000_000
    assert len(json.loads(numbers.read_text(encoding="utf-8"))["findings"]) == 1000


def test_a_lone_surrogate_is_written_and_read_back(subject, tmp_path):
    """T44: text that UTF-8 can't hold is spelt out on the page and comes back from the JSON."""
    audit = collect(subject, [AuditSource("a", 1, [example(10, "a\udce9:1")])], Faults([("a\udce9:2", "bad \ud800")]))
    numbers, page = write(audit, tmp_path)
    assert json.loads(numbers.read_text(encoding="utf-8"))["dropped"][0]["reason"] == "bad \ud800"
    assert "bad ⟨U+D800⟩" in page.read_text(encoding="utf-8")
