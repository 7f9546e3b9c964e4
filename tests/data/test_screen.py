"""Screening: exact counts of copies, leaks and private data, and what each policy does with the rows."""

from __future__ import annotations

import gzip
import json
import random
import re

import pytest

from finetune.data.duplicates import NearIndex, find_boilerplate, normalise, shingles
from finetune.data.rows import Sample
from finetune.data.screen import Finding, Screened, check_licences, look, refusals
from finetune.data.spool import SampleFile
from finetune.errors import DataError
from finetune.recipe_data import ScreenSection, SourceSection

OFF = {"exact_duplicates": "off", "train_eval_overlap": "off", "personal_data": "off", "secrets": "off"}
WORDS = re.findall(
    "[a-z]+", "ore shaft pump belt seam gas dust vent fan roof bolt drill haul crush mill float tail dam pit bench"
)


def sample(question: str, answer: str, where: str = "", system: str | None = None) -> Sample:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Sample({"q": question, "a": answer}, tuple(messages), where)


def placed(file: str, samples: list[Sample]) -> list[Sample]:
    return [Sample(s.record, s.messages, f"{file}:{line}") for line, s in enumerate(samples, start=1)]


def section(**settings) -> ScreenSection:
    return ScreenSection(**(OFF | settings))


def screened(train: list[Sample], evaluate: list[Sample], settings: ScreenSection, workers: int = 1) -> Screened:
    return look(SampleFile.of(train), SampleFile.of(evaluate), settings, workers)


def stops(train: list[Sample], evaluate: list[Sample], settings: ScreenSection) -> list[str]:
    """What would stop a run."""
    sets = SampleFile.of(train), SampleFile.of(evaluate)
    return refusals(look(*sets, settings), *sets)


def wheres(samples: SampleFile) -> list[str]:
    return [item.where for item in samples]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("ＣＨ４　浓度", "ch4 浓度"), ("zero\u200bwidth\ufeff", "zerowidth"), ("  a\t\n b ", "a b"),
        ("Straße", "STRASSE"), ("e\u0301", "é"), ("㎎", "mg"), ("ﬁne", "FINE"),
    ],
)  # fmt: skip
def test_what_normalises_to_the_same(text, same):
    assert normalise(text) == normalise(same)
    assert normalise(normalise(text)) == normalise(text)


def test_what_stays_different():
    assert len({normalise(text) for text in ("5", "5.0", "-5", "x5", "5 %", "a b", "ab")}) == 7


def planted() -> tuple[list[Sample], list[Sample]]:
    """100 rows; 7 copied as they are, 4 variants (NFKC, zero-width, case, white space), 5 held-out rows copied in."""
    base = [sample(f"Question ABC {n}?", f"Answer {n}") for n in range(100)]
    raw = [base[n] for n in (0, 0, 3, 5, 5, 5, 99)]
    variants = [
        sample("Ｑｕｅｓｔｉｏｎ ABC 7?", "Answer 7"),
        sample("Ques\u200btion ABC 8?", "Answer 8"),
        sample("QUESTION abc 9?", "ANSWER 9"),
        sample("Question  ABC\n10?", "Answer 10 "),
    ]
    evaluate = [sample(f"Held out {n}?", f"Yes {n}") for n in range(20)]
    leaks = [*evaluate[:3], sample("HELD OUT 3?", "yes 3"), sample("Held out 4?", "another answer")]
    return placed("train.jsonl", base + raw + variants + leaks), placed("eval.jsonl", evaluate)


def test_counts_of_planted_copies_are_exact():
    """T45: duplicates raw and in NFKC/zero-width/case variants, five held-out rows copied into train."""
    train, evaluate = planted()
    result = screened(train, evaluate, section(exact_duplicates="drop", train_eval_overlap="drop"))
    assert result.counts == {
        "raw_duplicate": 7, "normalised_duplicate": 4, "raw_overlap": 3, "normalised_overlap": 1, "prompt_overlap": 1,
    }  # fmt: skip
    assert result.report() == [
        "raw_duplicate: 7 (dropped)", "normalised_duplicate: 4 (dropped)",
        "raw_overlap: 3 (dropped)", "normalised_overlap: 1 (dropped)", "prompt_overlap: 1 (dropped)",
    ]  # fmt: skip
    assert wheres(result.train) == [f"train.jsonl:{line}" for line in range(1, 101)]
    assert list(result.evaluate) == evaluate
    twins = [(finding.where, finding.other) for finding in result.findings]
    assert twins[:7] == [
        (f"train.jsonl:{line}", f"train.jsonl:{twin}")
        for line, twin in zip(range(101, 108), (1, 1, 4, 6, 6, 6, 100), strict=True)
    ]
    assert twins[7:11] == [(f"train.jsonl:{line}", f"train.jsonl:{line - 100}") for line in range(108, 112)]
    assert twins[11:] == [(f"train.jsonl:{line}", f"eval.jsonl:{line - 111}") for line in range(112, 117)]


def test_counts_do_not_depend_on_the_order_of_the_rows():
    """T45: the same counts however the rows are shuffled, and the same texts left."""
    train, evaluate = planted()
    settings = section(exact_duplicates="drop", train_eval_overlap="drop")
    expected = screened(train, evaluate, settings)
    for seed in range(3):
        again = screened(random.Random(seed).sample(train, len(train)), evaluate, settings)
        assert sum(again.counts.values()) == 16 and again.counts["raw_overlap"] == 3
        left = [{normalise(s.record["q"] + s.record["a"]) for s in result.train} for result in (expected, again)]
        assert left[0] == left[1]


def test_overlap_refuses_by_default_and_names_every_row():
    """T45: overlap of train and eval above 0 refuses; the message says what allows it."""
    train, evaluate = planted()
    problems = stops(train, evaluate, ScreenSection())
    how = "the same but for case, white space, width or zero-width characters"
    assert problems == [
        "train.jsonl:112: raw_overlap: the same text as eval.jsonl:1",
        "train.jsonl:113: raw_overlap: the same text as eval.jsonl:2",
        "train.jsonl:114: raw_overlap: the same text as eval.jsonl:3",
        f"train.jsonl:115: normalised_overlap: {how} as eval.jsonl:4",
        "train.jsonl:116: prompt_overlap: the same prompt, another answer as eval.jsonl:5",
        "data.screen.train_eval_overlap: 5 found; `drop` leaves such rows out, `report` only counts them",
    ]
    allowed = screened(train, evaluate, ScreenSection(train_eval_overlap="report"))
    assert list(allowed.train) == train and allowed.counts["raw_overlap"] == 3


def test_all_refusals_come_in_one_error():
    rows = placed("t", [sample("a b", "1"), sample("a b", "1"), sample("call 13800138000", "2")])
    problems = stops(rows, [], section(exact_duplicates="error", personal_data="error"))
    assert problems == [
        "t:2: raw_duplicate: the same text as t:1",
        "data.screen.exact_duplicates: 1 found; `drop` leaves such rows out, `report` only counts them",
        "t:3: phone: message 1 (user): 138…00 (11 characters)",
        "data.screen.personal_data: 1 found; `drop` leaves such rows out, `redact` replaces them, "
        "`report` only counts them",
    ]
    found = screened(rows, [], section(exact_duplicates="error", personal_data="error"))
    assert list(found.train) == rows and [finding.action for finding in found.findings] == ["refused", "refused"]


def test_a_flood_of_refusals_is_cut_and_counted():
    rows = placed("t", [sample("a b", "1")] * 60)
    problems = stops(rows, [], section(exact_duplicates="error"))
    assert len(problems) == 51
    assert problems[-1].startswith("data.screen.exact_duplicates: 59 found (9 more than shown); `drop`")


def test_off_looks_for_nothing():
    train, evaluate = planted()
    result = screened(train, evaluate, section())
    assert [list(result.train), list(result.evaluate), result.findings, result.counts] == [train, evaluate, [], {}]


def test_private_data_dropped_and_redacted_in_both_sets():
    train = placed("t", [sample("call 13800138000", "ok"), sample("hi", "ok"), sample("password: Passw0rd!x", "no")])
    evaluate = placed("e", [sample("mail a@example.com", "ok")])
    result = screened(train, evaluate, section(personal_data="redact", secrets="drop"))
    assert [item.messages[0]["content"] for item in result.train] == ["call [PHONE]", "hi"]
    assert result.evaluate[0].messages[0]["content"] == "mail [EMAIL]"
    assert result.findings == [
        Finding("phone", "t:1", "", "message 1 (user): 138…00 (11 characters)", "redacted"),
        Finding("password", "t:3", "", "message 1 (user): Pas…!x (10 characters)", "dropped"),
        Finding("email", "e:1", "", "message 1 (user): a@e…om (13 characters)", "redacted"),
    ]
    counts = {kind: count for kind, count in result.counts.items() if count}
    assert counts == {"email": 1, "phone": 1, "password": 1} and result.counts["resident_id"] == 0


def test_nothing_left_is_an_error():
    problems = stops([sample("13800138000", "a", "t:1")], [], section(personal_data="drop"))
    assert problems == ["data.screen: all 1 training rows were dropped; phone: 1 (dropped)"]


def sentence(seed: int, length: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def test_near_duplicates_are_those_of_the_exact_jaccard_index():
    """Every pair that the index reports, and no other, has a Jaccard index at or above the threshold."""
    texts = []
    for seed in range(30):
        words = sentence(seed).split()
        texts.append(" ".join(words))
        for changes in (1, 3, 8):
            changed = list(words)
            for position in random.Random(seed + changes).sample(range(60), changes):
                changed[position] = "changed"
            texts.append(" ".join(changed))
    first = list(range(0, 120, 4))
    near = NearIndex(0.8)
    for key in first:
        near.add(key, texts[key])
    for key in range(120):
        sets = [(len(shingles(texts[key]) & shingles(texts[k])) / len(shingles(texts[key]) | shingles(texts[k])), -k)
                for k in first]  # fmt: skip
        best = max(sets)
        expected = (-best[1], best[0]) if best[0] >= 0.8 else None
        assert near.nearest(texts[key]) == expected


def test_near_duplicates_and_near_overlap_are_counted_apart():
    law = "煤矿企业必须建立健全安全生产责任制，主要负责人对本单位的安全生产工作全面负责，并定期组织检查。"
    law += "任何单位和个人不得违章指挥或者强令从业人员冒险作业，发现事故隐患应当及时采取措施予以消除并如实记录。"
    train = placed("t", [
        sample(sentence(1), "x"), sample(sentence(1) + " end", "x"), sample(sentence(2), "x"),
        sample(law, "是"), sample(law.replace("定期", "每月"), "是"), sample(sentence(3) + " end", "x"),
    ])  # fmt: skip
    evaluate = placed("e", [sample(sentence(3), "x"), sample(sentence(4), "x")])
    result = screened(train, evaluate, section(near_duplicates="drop", train_eval_overlap="drop"))
    assert [(f.kind, f.where, f.other) for f in result.findings] == [
        ("near_duplicate", "t:2", "t:1"), ("near_duplicate", "t:5", "t:4"), ("near_overlap", "t:6", "e:1"),
    ]  # fmt: skip
    assert wheres(result.train) == ["t:1", "t:3", "t:4"]
    assert result.counts["near_duplicate"] == 2 and result.counts["near_overlap"] == 1


def test_a_long_instruction_around_every_row_does_not_make_rows_alike():
    instruction = "Read the record of the shift below and say whether the hazard state is a or b. " * 3
    rows = placed("t", [sample(instruction + sentence(seed, 6), "a") for seed in range(40)])
    rows += [sample(instruction + sentence(7, 6) + ".", "a", "t:41")]
    assert len(find_boilerplate([s.record["q"] for s in rows])) > 60
    result = screened(rows, [], section(near_duplicates="report", near_duplicate_threshold=0.7))
    assert [(f.where, f.other) for f in result.findings] == [("t:41", "t:8")]


def test_an_exact_copy_that_stays_is_not_counted_as_near_too():
    rows = placed("t", [sample(sentence(1), "x", system="s"), sample(sentence(1), "x", system="s")])
    result = screened(rows, [], section(exact_duplicates="report", near_duplicates="report"))
    assert result.counts == {"raw_duplicate": 1, "normalised_duplicate": 0, "near_duplicate": 0}
    other_system = placed("t", [sample(sentence(1), "x", system="s"), sample(sentence(1), "x", system="z")])
    result = screened(other_system, [], section(exact_duplicates="report", near_duplicates="report"))
    assert result.counts == {"raw_duplicate": 0, "normalised_duplicate": 0, "near_duplicate": 1}


QUESTION = "A mine hauls nine hundred tonnes of ore a day and its mill loses four percent of it"  # 17 words
CHINESE = "某煤矿采煤工作面瓦斯浓度达到百分之一点五时应当立即停止作业并撤出人员"


def test_benchmark_passages_are_found_in_training_rows(tmp_path):
    (tmp_path / "b.jsonl").write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in (
            {"q": QUESTION, "options": ["A", "B"]}, {"q": {"text": CHINESE}}, {"q": "What is the ash point of coal?"},
        )), encoding="utf-8",
    )  # fmt: skip
    (tmp_path / "c.txt").write_text("\n" + sentence(5, 20) + "\n", encoding="utf-8")
    train = placed("t", [
        sample("Work this out: " + QUESTION.upper().replace(" ", "  "), "864"),
        sample("请回答：" + CHINESE[8:28], "是"),  # 20 characters
        sample("请回答：" + CHINESE[8:26], "是"),  # 18: one fewer than 13 * 3 / 2
        sample("x", "because " + " ".join(sentence(5, 20).split()[4:17])),
        sample("what is the ash point of COAL", "?"),
        sample("Tell me: what is the ash point of coal?", "A"),
        sample(" ".join(QUESTION.split()[:12]), "B"),
    ])  # fmt: skip
    files = (tmp_path / "b.jsonl", tmp_path / "c.txt")
    result = screened(train, [], section(benchmarks=files, benchmark_overlap="drop"))
    assert [(f.where, f.other) for f in result.findings] == [
        ("t:1", f"{files[0]}:1"), ("t:2", f"{files[0]}:2"), ("t:4", f"{files[1]}:2"), ("t:5", f"{files[0]}:3"),
    ]  # fmt: skip
    assert result.findings[0].detail == ("the same words 'a mine hauls nine hundred tonnes of ore a day and its mill'")
    assert result.counts == {"benchmark_overlap": 4} and wheres(result.train) == ["t:3", "t:6", "t:7"]


def test_an_instruction_that_a_benchmark_repeats_is_no_evidence(tmp_path):
    instruction = "Choose the one right answer out of the four that follow and write down its letter only."
    file = tmp_path / "b.jsonl"
    rows = [{"instruction": instruction, "q": sentence(seed, 15)} for seed in range(11)]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    train = placed("t", [sample(f"{instruction} Why?", "A"), sample(f"{instruction} {sentence(4, 15)}", "B")])
    result = screened(train, [], section(benchmarks=(file,), benchmark_overlap="report"))
    assert [(f.where, f.other) for f in result.findings] == [("t:2", f"{file}:5")]


def test_benchmark_files_that_cannot_be_read_are_all_named(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"a": "b"}\n{"a": \n', encoding="utf-8")
    (tmp_path / "x.dat").write_text("x", encoding="utf-8")
    files = tuple(tmp_path / name for name in ("bad.jsonl", "none.txt", "x.dat", "none.csv"))
    with pytest.raises(DataError) as caught:
        screened([sample("a", "b", "t:1")], [], section(benchmarks=files))
    problems = [problem.removeprefix("data.screen.benchmarks: ") for problem in caught.value.problems]
    assert problems[:2] == [
        f"{files[0]}:2:7: Expecting value",
        f"{files[1]}: can't be read: No such file or directory",
    ]
    assert problems[2].startswith(f"{files[2]}: can't tell the kind of .dat; ")
    assert problems[3].startswith(f"{files[3]}: no such file or folder") and len(problems) == 4


CSV = f"id;question\n1;{QUESTION}\n2;{CHINESE}\n"


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("b.json", json.dumps([{"a": 1}, {"q": [QUESTION]}], indent=1).encode(), 5),
        ("b.csv", CSV.encode("gb18030"), 2),
        ("b.csv", f"{QUESTION},A,B\nother,C,D\n".encode(), 2),  # no header: its first row is not lost
        ("b.txt", f"first line\n{QUESTION}\n{CHINESE}\n".encode("gb18030"), 2),
        ("b.jsonl.gz", gzip.compress((json.dumps({"q": "x"}) + "\n" + json.dumps({"q": QUESTION})).encode()), 2),
        ("b.csv.gz", gzip.compress(CSV.encode("utf-16")), 2),
        ("b.txt.gz", gzip.compress(b"\n" + QUESTION.encode()), 2),
        ("folder/b.csv", CSV.encode(), 2),
    ],
    ids=("json", "csv", "no header", "txt", "jsonl.gz", "csv.gz", "txt.gz", "folder"),  # gzip's bytes hold the time
)
def test_benchmarks_are_read_as_sources_are(tmp_path, name, content, line):
    """T45: any kind, encoding and compression that a source may have; `folder` is given as a folder."""
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    given = file.parent if name.startswith("folder") else file
    train = placed("t", [sample("Work this out: " + QUESTION, "864"), sample("harmless", "words")])
    result = screened(train, [], section(benchmarks=(given,), benchmark_overlap="report"))
    assert [(f.where, f.other) for f in result.findings] == [("t:1", f"{file}:{line}")]


def test_a_parquet_benchmark(tmp_path):
    """T45: as `datasets` and the hub keep most benchmarks."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    file = tmp_path / "b.parquet"
    pq.write_table(pa.table({"q": ["x", QUESTION], "options": [["a"], ["b", "c"]]}), file)
    result = screened([sample(QUESTION, "1", "t:1")], [], section(benchmarks=(file,), benchmark_overlap="report"))
    assert [f.other for f in result.findings] == [f"{file}:2"]


def test_sources_without_licence_or_provenance_are_named_where_the_recipe_asks():
    sources = [
        SourceSection(path="a.jsonl", licence="CC0-1.0", provenance="NOAA"),
        SourceSection(path="b.jsonl", licence="MIT"),
        SourceSection(hub="org/name@main", licence=" "),
    ]
    assert check_licences(sources, require=False) == []
    assert check_licences(sources, require=True) == [
        "data.require_licence: b.jsonl: no provenance given",
        "data.require_licence: org/name@main: no licence and no provenance given",
    ]
