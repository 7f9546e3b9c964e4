"""Data templates with a worse answer beside the better one, or with a label; through audit and show."""

from __future__ import annotations

import json

import pytest
import yaml

from finetune.audit import audit_recipe
from finetune.data.audit_answers import answers_note
from finetune.data.chat import IGNORED, Example
from finetune.data.prepare import prepare
from finetune.data.rows import Row
from finetune.data.template import load_template
from finetune.errors import DataError, RecipeError
from finetune.recipefile import load_recipe
from finetune.show import show_samples
from tests.stages.made import load_tiny

PREFERENCE = {
    "name": "larger",
    "description": "the larger of two digits, and the smaller one as the worse answer",
    "columns": {"a": {"type": "int"}, "b": {"type": "int"}, "ok": {"type": "bool", "nullable": True}},
    "messages": [
        {"role": "user", "content": "1 2?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "{{ a }} {{ b }}?"},
        {"role": "assistant", "content": "{{ [a, b] | max }}", "rejected": "{{ [a, b] | min }} "},
    ],
    "metric": {"name": "exact_match"},
    "examples": [{"row": {"a": 3, "b": 7, "ok": True}, "answer": "7", "rejected": "3", "prompt": "3 7?"}],
}
LABELLED = PREFERENCE | {
    "messages": [
        {"role": "user", "content": "{{ a }} {{ b }}?"},
        {"role": "assistant", "content": "{{ a }}"},
    ],
    "label": "ok if ok is not none else a > b",
    "examples": [
        {"row": {"a": 3, "b": 7, "ok": None}, "answer": "3", "label": False},
        {"row": {"a": 3, "b": 7, "ok": True}, "answer": "3", "label": True},
    ],
}


def written(folder, template):
    file = folder / "t.yaml"
    file.write_text(yaml.safe_dump(template, sort_keys=False), encoding="utf-8")
    return file


def test_a_rejected_answer_shares_the_prompt_and_only_the_answers_are_trained(tmp_path):
    template = load_template(written(tmp_path, PREFERENCE))
    sample = template.render(Row({"a": 9, "b": 4, "ok": None}, "rows", 1))
    asked = (
        {"role": "user", "content": "1 2?"},
        {"role": "assistant", "content": "2", "train": False},
        {"role": "user", "content": "9 4?"},
    )
    assert template.rows == "preference"
    assert sample.messages == (*asked, {"role": "assistant", "content": "9"})
    assert sample.rejected == (*asked, {"role": "assistant", "content": "4"})
    assert sample.marks == ()


def test_a_label_is_the_mark_of_the_answer(tmp_path):
    template = load_template(written(tmp_path, LABELLED))
    rows = [Row({"a": a, "b": b, "ok": ok}, "rows", 1) for a, b, ok in ((9, 4, None), (4, 9, None), (9, 4, False))]
    assert template.rows == "labelled"
    assert [sample.marks for sample in template.render_all(rows)] == [(1.0,), (0.0,), (0.0,)]


def changed(template, **keys):
    return template | keys


WRONG = [
    (
        changed(PREFERENCE, examples=[{"row": {"a": 3, "b": 7, "ok": None}, "answer": "7"}]),
        "examples.0: the template has a `rejected`: say what it comes to",
    ),
    (
        changed(PREFERENCE, examples=[{"row": {"a": 3, "b": 7, "ok": None}, "answer": "7", "rejected": "7"}]),
        "examples: the row renders to the rejected answer '3'",
    ),
    (
        changed(LABELLED, examples=[{"row": {"a": 3, "b": 7, "ok": None}, "answer": "3", "label": True}]),
        "examples: the row's label is false",
    ),
    (changed(LABELLED, label="a +"), "label: Jinja line 1:"),
    (changed(LABELLED, label="c > 1"), "label: c: not a column"),
    (changed(LABELLED, label="a"), "`label` of"),
    (
        changed(LABELLED, messages=PREFERENCE["messages"]),
        "`label` and `rejected` are for different stages; give one of them",
    ),
    (
        changed(PREFERENCE, messages=[{"role": "assistant", "content": "x", "rejected": "y"}, *LABELLED["messages"]]),
        "`rejected` is for the last message (the answer)",
    ),
    (
        changed(
            PREFERENCE,
            messages=None,
            variants=[{"name": "one", "messages": PREFERENCE["messages"]}, {"name": "two", "messages": LABELLED["messages"]}],
        ),
        "either every answer has a `rejected` beside it, or none",
    ),
    (
        changed(PREFERENCE, examples=[{"row": {"a": 7, "b": 7, "ok": None}, "answer": "7", "rejected": "7"}]),
        "renders to the same as the better one",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("template", "problem"), WRONG, ids=[problem[:25] for _, problem in WRONG])
def test_wrong_templates_are_told_with_their_line(tmp_path, template, problem):
    file = written(tmp_path, {key: value for key, value in template.items() if value is not None})
    with pytest.raises(DataError) as error:
        load_template(file)
    assert any(str(file) in line and problem in line for line in error.value.problems), error.value.problems


def test_a_template_of_another_kind_is_refused_before_any_row_is_read(tmp_path, tiny_base):
    recipe = load_tiny(tmp_path, tiny_base, "dpo")
    data = recipe.data.model_copy(update={"template": written(tmp_path, LABELLED), "format": None})
    with pytest.raises(RecipeError) as error:
        prepare(data, 0, "dpo")
    assert error.value.problems == [
        f"data.template: {tmp_path}/t.yaml gives labelled answers (a `label`); stage dpo trains on preferences (a "
        "`rejected` beside the answer's `content`)"
    ]
    data = data.model_copy(update={"template": written(tmp_path, PREFERENCE)})
    with pytest.raises(RecipeError, match="stage sft trains on conversations"):
        prepare(data, 0, "sft")


def test_show_prints_both_answers_with_what_is_trained(tmp_path, tiny_base, capsys):
    rows = tmp_path / "digits.jsonl"
    rows.write_text("".join(json.dumps({"a": a, "b": a + 1, "ok": None}) + "\n" for a in range(9)), encoding="utf-8")
    written(tmp_path, PREFERENCE)
    load_tiny(tmp_path, tiny_base, "dpo")
    set_data = ["data.format=null", f"data.template={tmp_path}/t.yaml", f"data.train={rows}", "data.split.eval_rows=2"]
    show_samples(load_recipe(tmp_path / "dpo.yaml", set_data), 1)
    chat = (
        "<|im_start|>user\n1 2?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\n{a} {b}?<|im_end|>\n"
    )
    out = capsys.readouterr().out
    a = int(out.split("?<|im_end|>")[1].rsplit("\n", 1)[1].split()[0])
    asked = chat.format(a=a, b=a + 1) + "<|im_start|>assistant\n"
    head = f"--- {rows}:{a + 1}: {len(asked.replace('<|im_start|>', '*').replace('<|im_end|>', '*')) + 3} tokens, 2 trained"
    assert out == "".join(f"{head}\n{asked}⟦{answer}<|im_end|>⟧\n\n" for answer in (a + 1, a))


def test_the_audit_counts_both_answers_and_finds_private_data_in_the_worse_one(tmp_path, tiny_base):
    """35 pairs, 6 held out. Every row's answers share the prompt; the rejected one of row 1 holds an address."""
    recipe = load_tiny(tmp_path, tiny_base, "dpo", "data.screen.personal_data=report")
    file = tmp_path / "rows.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["rejected"] = "write to jane.doe@example.org"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    _failed, (numbers, _page) = audit_recipe(recipe, None, tmp_path)
    audit = json.loads(numbers.read_text())
    (source,) = audit["sources"]
    assert (source["rows"], source["samples"], source["held_out"]) == (35, 58, 12)
    assert audit["counts"]["personal_data"]["email"] == 1
    (note,) = [line for line in audit["notes"] if line.startswith("pairs: ")]
    assert note.startswith("pairs: 29; trained tokens on average ")


def test_pairs_that_differ_in_the_worse_answer_alone_are_no_duplicates(tmp_path, tiny_base):
    recipe = load_tiny(tmp_path, tiny_base, "dpo", "data.screen.exact_duplicates=drop")
    file = tmp_path / "rows.jsonl"
    row = {"prompt": "p", "chosen": "yes", "rejected": "no"}
    others = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [row, row, row | {"rejected": "never"}, *others]
    file.write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")
    data = prepare(recipe.data, recipe.seed, "dpo")
    assert data.counts["raw_duplicate"] == 1
    assert len(data.train) + len(data.evaluate) == len(rows) - 1


def test_the_audit_weighs_good_answers_against_bad_ones():
    """Three good and one bad: 3 to 1 by number, 3 * 1 / (1 * 2) = 1.5 where a bad answer weighs twice as much."""
    answers = [Example((1, 2), (IGNORED, 2), "row", (mark,)) for mark in (1.0, 1.0, 0.0, 1.0)]
    said = "answers: 3 labelled good, 1 bad; by number and weight the good ones count {} times as much (1 to 1.33 is advised)"
    assert answers_note(answers, "labelled") == [said.format("3.00")]
    assert answers_note(answers, "labelled", (1.0, 2.0)) == [said.format("1.50")]
    assert answers_note(answers[:2], "labelled") == ["answers: 2 labelled good, 0 bad"]
    assert answers_note(answers, "conversation") == []


def test_the_audit_says_which_answers_are_longer():
    """Trained tokens 3 against 1, and 1 against 2: means 2.0 and 1.5, the chosen one is longer once."""
    pairs = [Example((0,) * 4, (IGNORED,) * (4 - n) + (0,) * n, "row") for n in (3, 1, 1, 2)]
    line = "pairs: 2; trained tokens on average 2.0 chosen, 1.5 rejected; the chosen answer is the longer one in 1"
    assert answers_note(pairs, "preference") == [line]
