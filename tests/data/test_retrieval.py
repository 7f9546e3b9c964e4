"""Questions with their passages: which distractors, in which order, without which gold; and that folds leak nothing."""

from __future__ import annotations

import json

import pytest

from finetune.cli import main
from finetune.data.retrieval import Retrieval, build, words
from finetune.data.rows import Row
from finetune.errors import DataError
from tests.conftest import ROOT

TEXTS = {
    "gas": "Methane above 1.5 % at the face: cut the power and withdraw everybody at once.",
    "gas copy": "METHANE above 1.5% at the face, cut the power and withdraw everybody at once!",
    "dust": "Respirable dust at the face is sampled every two months by the mine's own laboratory.",
    "power": "Power to the face is cut by the shift electrician only, after a call to the control room.",
    "pumps": "Sump pumps are tested weekly and their hours written into the log of the shaft.",
    "rope": "A hoisting rope is taken off after two years, whatever its looks.",
}
QUESTION = {"question": "When is the power to the face cut?", "answer": "1.5 %", "gold": "gas"}


def numbered(rows, name="rows.jsonl"):
    return [Row(row, name, number) for number, row in enumerate(rows, 1)]


def passages(**texts):
    return numbered([{"id": name, "text": text} for name, text in (TEXTS | texts).items()], "passages.jsonl")


def made(*questions, **settings):
    return build(numbered(questions), passages(), Retrieval(**{"folds": 1, "without_gold": 0.0} | settings))


def shown(row):
    return [item["id"] for item in row["passages"]]


def test_words():
    """Chinese as pairs of characters, a single one as it is; ASCII words and numbers whole; full width as half."""
    assert words("CH4浓度１.5%，停 Power") == ["ch4", "浓度", "1.5", "停", "power"]
    assert words("矿山安全法") == ["矿山", "山安", "安全", "全法"]


def test_distractors_are_the_nearest_that_do_not_answer():
    """`gas copy` says the same as the gold; of the rest `power` shares power, to, face, cut, `dust` only is, the, face."""
    (row,) = made(QUESTION, distractors=1)
    assert set(shown(row)) == {"gas", "power"}
    assert [row["passages"][number - 1]["id"] for number in row["cites"]] == ["gas"]
    assert row["answerable"] is True and row["answer"] == "1.5 %" and row["gold"] == "gas" and row["fold"] == 0
    (row,) = made(QUESTION, distractors=2)
    assert set(shown(row)) == {"gas", "power", "dust"}


def test_evidence_says_what_answers_and_is_not_kept():
    """Half of these words of the evidence are in `power` too: it is no distractor then."""
    (row,) = made(QUESTION | {"evidence": "Power to the face is cut at 1.5 %"}, distractors=1)
    assert set(shown(row)) == {"gas", "dust"}
    assert "evidence" not in row


def test_without_gold():
    """One more distractor stands in for the gold passage."""
    (refused,) = made(QUESTION, distractors=1, without_gold=1.0)
    assert set(shown(refused)) == {"power", "dust"} and refused["cites"] == [] and refused["answerable"] is False
    (memory,) = made(QUESTION, distractors=1, without_gold=1.0, then="memory")
    assert memory == refused | {"answerable": True}
    (unasked,) = made(QUESTION | {"gold": []}, distractors=1)
    assert len(unasked["passages"]) == 2 and unasked["answerable"] is False


def test_several_gold_passages():
    (row,) = made(QUESTION | {"gold": ["power", "gas"]}, distractors=1)
    assert set(shown(row)) == {"gas", "power", "dust"}
    assert [row["passages"][number - 1]["id"] for number in row["cites"]] == [i for i in shown(row) if i != "dust"]
    assert len(row["cites"]) == 2


def test_a_row_depends_on_its_record_alone():
    """The order of rows and of passages changes nothing; the share without gold is that of a hash."""
    questions = [{"question": f"Is power {n} cut?", "answer": "yes", "gold": "power"} for n in range(400)]
    settings = Retrieval(distractors=2, without_gold=0.25, folds=1, seed=7)
    rows = build(numbered(questions), passages(), settings)
    backwards = build(numbered(questions[::-1]), passages()[::-1], settings)
    assert backwards[::-1] == rows
    assert build(numbered(questions[:1]), passages(), settings) == rows[:1]
    without = sum(not row["cites"] for row in rows)
    assert 75 <= without <= 125  # 100 expected; three standard deviations are 26
    places = [row["cites"][0] for row in rows if row["cites"]]
    assert {place: places.count(place) >= len(places) / 5 for place in (1, 2, 3)} == {1: True, 2: True, 3: True}


def test_a_fold_shares_no_passage_with_another_and_keeps_together_what_says_the_same():
    """30 passages, of which every third is a copy of the one before."""
    texts = {}
    for n in range(30):
        own = f"Rule {n}: " + " ".join(f"w{(n * 7 + k) % 31}{k}{n}" for k in range(12))
        texts[f"p{n:02}"] = texts[f"p{n - 1:02}"] + "!" if n % 3 == 2 else own
    rows = build(
        numbered([{"question": f"What is rule {n}?", "answer": "x", "gold": f"p{n:02}"} for n in range(30)]),
        numbered([{"id": name, "text": text} for name, text in texts.items()]),
        Retrieval(distractors=1, folds=3, without_gold=0.3),
    )
    folds = {}
    for row in rows:
        for name in shown(row):
            assert folds.setdefault(name, row["fold"]) == row["fold"]
    assert len(set(folds.values())) == 3
    assert all(rows[n]["fold"] == rows[n - 1]["fold"] for n in range(2, 30, 3))
    assert all(len({texts[name].rstrip("!") for name in shown(row)}) == len(shown(row)) for row in rows)


def test_everything_wrong_is_named():
    questions = [{"question": "a?", "answer": "b", "gold": "gaz"}, {"question": 3, "gold": 7, "fold": 1}]
    texts = passages()
    texts.append(Row({"id": "gas", "text": "again"}, "passages.jsonl", 7))
    texts.append(Row({"id": "empty", "txt": "x"}, "passages.jsonl", 8))
    with pytest.raises(DataError) as error:
        build(numbered(questions), texts, Retrieval())
    assert error.value.problems == [
        "passages.jsonl:7: id: 'gas' is that of passages.jsonl:1 too",
        "passages.jsonl:8: text: text is needed, got None; did you mean 'txt'?",
        "rows.jsonl:1: gold: no passage has the id 'gaz'; did you mean 'gas'?",
        "rows.jsonl:2: answer: is missing; allowed: fold, gold, question",
        "rows.jsonl:2: fold: is a column that is added; rename it",
        "rows.jsonl:2: question: text is needed, got 3",
        "rows.jsonl:2: gold: a passage's id or a list of ids is needed, got 7",
    ]
    with pytest.raises(DataError, match=r"rows.jsonl:1: 4 distractors in its fold, 9 are needed; more passages or"):
        made(QUESTION, distractors=9)


def test_the_command(tmp_path, capsys):
    (tmp_path / "q.jsonl").write_text(json.dumps(QUESTION) + "\n", encoding="utf-8")
    lines = [json.dumps({"id": name, "text": text}) + "\n" for name, text in TEXTS.items()]
    (tmp_path / "p.jsonl").write_text("".join(lines), encoding="utf-8")
    files = ["raft", str(tmp_path / "q.jsonl"), str(tmp_path / "p.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    settings = ["--distractors", "1", "--folds", "1", "--without-gold", "0"]
    assert main([*files, *settings]) == 0
    assert (
        capsys.readouterr().out == f"{tmp_path}/out.jsonl: 1 rows, 0 without a gold passage; 1 folds of 1 to 1 rows\n"
    )
    assert json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8")) == made(QUESTION, distractors=1)[0]
    assert main([*files, "--without-gold", "1.2"]) == 2
    assert capsys.readouterr().err == "--without-gold: 1.2 is not a share (0 to 1)\n"


def test_the_mining_sample_leaks_nothing():
    """No article that is shown with a held-out question is shown in training."""
    from finetune.inputs import load_data
    from finetune.recipefile import load_recipe

    data = load_data(load_recipe(ROOT / "recipes/mining/law_questions.yaml"))
    trained, held_out = (
        {item["text"] for sample in part for item in sample.record["passages"]} for part in (data.train, data.evaluate)
    )
    assert len(data.evaluate) == 80 and len(data.train) > 800
    assert not trained & held_out
    answers = {sample.record["answerable"] for sample in data.evaluate}
    assert answers == {True, False}
