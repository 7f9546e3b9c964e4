"""The folder of an import: what it holds, that nothing is lost or half-written, and that the data path takes it as it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.data.prepare import prepare
from finetune.errors import RecipeError
from finetune.feedback.folder import whole_folder
from finetune.recipe_data import DataSection
from tests.feedback.logs import assistant, line, said, user, write

# 13 lines; line 3 has two answers. Left out: 2 (again), 5 (nobody judged), 7 (cut off), 8 (3 of 5), 11 (key), 13 (failed).
# Line 9 is the request of line 10. So of 13 rows (12 lines with answers, one more answer) 7 are used.
LINES = [
    said(rating=5, by="ann@example.com"),
    said(rating=5, by="bob@example.com"),
    line(
        [user("Which?")],
        ["this", "that"],
        [{"choice": 0, "rating": 1}, {"choice": 1, "rating": 4, "by": "ann@example.com"}],
    ),
    said("3+3?", "7", rating=1, correction="6"),
    said("4+4?", "8"),
    said("5+5?", "11", rating=2),
    line([user("6+6?")], ["1"], {"rating": 5}, "length"),
    said("7+7?", "14", rating=3),
    {"custom_id": "b1", "body": {"model": "m", "messages": [user("8+8?")]}},
    {
        "custom_id": "b1",
        "response": {"status_code": 200, "body": said("", "16")["response"]},
        "feedback": {"rating": 5},
    },
    said("My key: ghp_" + "a1B2" * 9, "Noted.", rating=5),
    said("Call 13812345678", "Will do.", rating=4),
    {"request": {"messages": [user("?")]}, "response": {"error": {"code": 500}}},
]


def run(folder: Path, *options: str, lines=LINES) -> int:
    return main(["feedback", "import", write(folder, lines), "--output", str(folder / "out"), *options])


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(text) for text in (folder / "out" / name).read_text(encoding="utf-8").splitlines()]


def test_every_row_is_used_or_left_out(tmp_path, capfd):
    assert run(tmp_path) == 0
    record = json.loads((tmp_path / "out/feedback.json").read_text(encoding="utf-8"))
    assert record["counts"] == {"lines": 13, "joined": 1, "rows": 13, "used": 7, "left_out": 6, "raters": 2}
    assert record["left_out"] == {
        "failed": 1,
        "unrated": 1,
        "between": 1,
        "unfinished": 1,
        "secrets": 1,
        "duplicate": 1,
    }
    left = [(item["where"].rpartition(":")[2], item["reason"]) for item in rows(tmp_path, "left_out.jsonl")]
    assert left == [
        ("2", "duplicate"), ("5", "unrated"), ("7", "unfinished"), ("8", "between"), ("11", "secrets"), ("13", "failed"),
    ]  # fmt: skip
    used = {(item["line"], item["choice"]) for row in rows(tmp_path, "lineage.jsonl") for item in row["from"]}
    assert used == {(1, 0), (3, 0), (3, 1), (4, 0), (6, 0), (10, 0), (12, 0)}
    assert {name: record["files"][f"{name}.jsonl"]["rows"] for name in ("sft", "preference", "labelled")} == {
        "sft": 5, "preference": 2, "labelled": 8
    }  # fmt: skip
    out, err = capfd.readouterr()
    assert err == ""
    assert out.replace(f"{tmp_path}/", "") == (
        "log.jsonl: 13 lines\n"
        "ratings: numbers are read as 1 to 5: 4 and 5 are good, 1 and 2 bad; --good and --bad say otherwise\n"
        "1 lines belong to others: requests of a batch, judgements by id\n"
        "rows: 13; used 7, left out 6\n"
        "  failed: 1 (the request failed: there is an error or a status other than 200 in place of an answer)\n"
        "  unrated: 1 (nobody judged this answer)\n"
        "  between: 1 (a rating that is neither good nor bad)\n"
        "  unfinished: 1 (the answer was cut off (length) or filtered, and nobody corrected it)\n"
        "  secrets: 1 (keys, tokens or passwords (with --secrets drop), or in the answer only (with redact))\n"
        "  duplicate: 1 (the same prompt, answer and judgement as another row)\n"
        "redacted: 1 rows\n"
        "held-out prompts: not compared; --recipe RECIPE keeps those of a recipe out\n"
        "wrote out/sft.jsonl: 5 rows\n"
        "wrote out/preference.jsonl: 2 rows\n"
        "wrote out/labelled.jsonl: 8 rows\n"
        "wrote out/left_out.jsonl, lineage.jsonl, feedback.json, README.md\n"
    )


def test_lineage_leads_every_row_back_to_its_line(tmp_path):
    run(tmp_path)
    lineage = rows(tmp_path, "lineage.jsonl")
    assert [(row["file"], row["row"]) for row in lineage] == [
        (f"{name}.jsonl", number)
        for name, count in (("sft", 5), ("preference", 2), ("labelled", 8))
        for number in range(1, count + 1)
    ]
    digest = hashlib.sha256((tmp_path / "log.jsonl").read_bytes()).hexdigest()
    origin = {
        "log": str(tmp_path / "log.jsonl"), "sha256": digest, "line": 1, "choice": 0, "id": None, "model": "served",
        "fingerprint": None, "created": None, "rating": 5, "judged": f"{tmp_path}/log.jsonl:1", "by": "rater 1", "redacted": [],
    }  # fmt: skip
    assert lineage[0] == {"file": "sft.jsonl", "row": 1, "done": "rated good", "from": [origin]}
    [pair] = [row for row in lineage if row["done"] == "two answers to one prompt"]
    assert [(item["line"], item["choice"], item["rating"], item["by"]) for item in pair["from"]] == [
        (3, 1, 4, "rater 1"),
        (3, 0, 1, None),
    ]
    assert rows(tmp_path, "preference.jsonl")[pair["row"] - 1]["chosen"] == [assistant("that")]
    phone = next(row for row in lineage if row["from"][0]["line"] == 12)
    assert phone["from"][0]["redacted"] == ["[PHONE]"]


def test_nobody_is_named_and_nothing_private_is_written(tmp_path):
    """Not who judged, not what was redacted, not what stands in a line that was left out or an id."""
    lines = [*LINES, said("9+9?", "18", rating=5) | {"id": "13812345678"}, '{"rating": "call 13812345678"']
    run(tmp_path, "--broken", "drop", lines=lines)
    text = "".join(file.read_text(encoding="utf-8") for file in (tmp_path / "out").iterdir())
    assert not [word for word in ("ann@", "bob@", "13812345678", "a1B2") if word in text]
    assert '"id": "[PHONE]"' in text


def test_the_same_logs_give_the_same_files(tmp_path):
    run(tmp_path)
    first = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    (tmp_path / "out").rename(tmp_path / "before")
    run(tmp_path)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == first
    hashes = json.loads(first["feedback.json"])["files"]
    assert {name: item["sha256"] for name, item in hashes.items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in first.items() if name != "feedback.json"
    }


@pytest.mark.parametrize(
    ("stage", "file", "format", "samples"),
    [("sft", "sft", "messages", 5), ("dpo", "preference", "preference", 2), ("kto", "labelled", "labelled", 8),
     ("distill", "sft", "messages", 5), ("reward", "preference", "preference", 2)],
)  # fmt: skip
def test_the_files_are_data_as_they_are(tmp_path, stage, file, format, samples):
    run(tmp_path)
    section = {
        "format": "auto",
        "train": ({"path": str(tmp_path / "out" / f"{file}.jsonl")},),
        "split": {"eval_rows": 1},
    }
    data = prepare(DataSection(**section), 0, stage)
    assert len(data.train) + len(data.evaluate) == samples
    assert (data.sources[0].format, data.refusals) == (format, [])
    if stage == "kto":
        assert sorted(sample.marks for sample in [*data.train, *data.evaluate]) == [(0.0,)] * 3 + [(1.0,)] * 5


def test_a_kind_of_row_that_is_not_there_has_no_file(tmp_path, capfd):
    assert run(tmp_path, lines=[said(rating="down")]) == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "README.md", "feedback.json", "labelled.jsonl", "left_out.jsonl", "lineage.jsonl",
    ]  # fmt: skip
    assert (
        "no answers to train on: sft.jsonl is not written\nno pairs of answers: preference.jsonl is not written\n"
        in capfd.readouterr().out
    )


def test_a_folder_that_is_there_is_not_touched(tmp_path, capfd):
    (tmp_path / "out").mkdir()
    assert run(tmp_path) == 2
    assert capfd.readouterr().err == f"{tmp_path}/out: is there already; give a new folder\n"
    assert [*(tmp_path / "out").iterdir()] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--near-duplicates", "2"], "--near-duplicates: a Jaccard index above 0 and up to 1 is needed, got 2\n"),
        (["--least-correction", "-1"], "--least-correction: a share from 0 to 1 is needed, got -1\n"),
        (["--good", "4,5", "--bad", "5"], "--good and --bad: 5: can't be both\n"),
        (["--recipe", "none.yaml"], "none.yaml: no such file\n"),
    ],
)
def test_options_that_cant_be(tmp_path, capfd, options, message):
    assert run(tmp_path, *options) == 2
    assert capfd.readouterr().err == message
    assert not (tmp_path / "out").exists()


def test_after_a_mistake_nothing_is_left(tmp_path, capfd):
    assert run(tmp_path, lines=[*LINES, "{"]) == 2
    assert capfd.readouterr().err.startswith(f"{tmp_path}/log.jsonl:14:2: Expecting property name")
    assert [file.name for file in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    def stop(error):
        with whole_folder(tmp_path / "a" / "out") as place:
            (place / "half").write_text("x")
            raise error

    with pytest.raises(KeyboardInterrupt):
        stop(KeyboardInterrupt())
    with pytest.raises(RecipeError, match="can't be written: Permission denied"):
        stop(PermissionError(13, "Permission denied"))
    with pytest.raises(OSError, match="No space left"):
        stop(OSError(28, "No space left on device"))
    assert [*(tmp_path / "a").iterdir()] == []


def test_the_datasheet_says_it_in_both_languages(tmp_path):
    run(tmp_path)
    text = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert text.count("| `sft.jsonl` | 5 |") == text.count("| `preference.jsonl` | 2 |") == 2
    assert "Rows of the logs: 13; used 7, left out 6:\n\n- failed: 1 (" in text
    assert (
        "日志共 13 行：采用 7 行，未采用 6 行：failed 1，unrated 1，between 1，unfinished 1，secrets 1，duplicate 1。"
        in text
    )
    assert "answers of served." in text and "回答来自 served。" in text
