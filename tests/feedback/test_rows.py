"""What becomes of judged answers; every total is counted by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from finetune.data.rows import Row
from finetune.errors import DataError
from finetune.feedback.entry import entries_of
from finetune.feedback.exchange import read_exchange
from finetune.feedback.rating import scale_of
from finetune.feedback.rows import judge, make_rows
from tests.feedback.logs import assistant, imported, left_out, line, said, user, values


def test_a_good_answer_is_trained_and_labelled(tmp_path):
    result = imported(tmp_path, [said(rating="up")])
    assert values(result, "sft") == [{"messages": [user("2+2?"), assistant("4")]}]
    assert values(result, "labelled") == [{"prompt": [user("2+2?")], "completion": [assistant("4")], "label": True}]
    assert values(result, "preference") == [] == left_out(result)


def test_a_bad_answer_alone_is_only_labelled(tmp_path):
    result = imported(tmp_path, [said(answer="5", rating="down")])
    assert values(result, "labelled") == [{"prompt": [user("2+2?")], "completion": [assistant("5")], "label": False}]
    assert len(result.made) == 1


def test_a_correction_is_trained_and_preferred(tmp_path):
    result = imported(tmp_path, [said(answer="5", rating="down", correction="4")])
    assert values(result, "sft") == [{"messages": [user("2+2?"), assistant("4")]}]
    assert values(result, "preference") == [
        {"prompt": [user("2+2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]}
    ]
    assert [(row["completion"], row["label"]) for row in values(result, "labelled")] == [
        ([assistant("4")], True), ([assistant("5")], False)
    ]  # fmt: skip


def test_a_correction_without_a_rating_labels_only_the_correction(tmp_path):
    result = imported(tmp_path, [said(answer="5", correction="4")])
    assert [(row["completion"], row["label"]) for row in values(result, "labelled")] == [([assistant("4")], True)]
    assert len(values(result, "preference")) == 1


def test_a_correction_that_says_the_same_is_none(tmp_path):
    """White space around it apart it is the answer: no pair can be made; a good rating still counts."""
    result = imported(
        tmp_path,
        [said(answer="It is four.", rating="up", correction=" It is four.\n"), said("3+3?", "6", correction="6")],
    )
    assert values(result, "sft") == [{"messages": [user("2+2?"), assistant("It is four.")]}]
    assert values(result, "preference") == []
    assert left_out(result) == [(2, "same_correction")]


def test_case_and_layout_are_corrections(tmp_path):
    lines = [said("a?", "5 mW", correction="5 MW"), said("b?", "kt 5 / dir 0", correction="kt 5\ndir 0")]
    result = imported(tmp_path, lines)
    assert [row["chosen"][0]["content"] for row in values(result, "preference")] == ["5 MW", "kt 5\ndir 0"]


def test_what_nobody_can_see_is_no_answer_and_no_correction(tmp_path):
    """Zero-width characters and white space."""
    lines = [
        said("a?", "\u200b \n", rating="up"),
        said("b?", rating="up", correction="\u200b "),
        said("c?", correction=" "),
    ]
    result = imported(tmp_path, lines)
    assert left_out(result) == [(1, "no_answer"), (3, "unrated")]
    assert [row["messages"][-1]["content"] for row in values(result, "sft")] == ["4"]


def test_a_remark_is_no_correction(tmp_path):
    """5 characters for an answer of 60 are under a tenth; a class of one letter for one letter is not short."""
    long = "x" * 60
    result = imported(
        tmp_path,
        [said("a?", long, correction="wrong"), said("b?", "A", correction="B"), said("c?", long, correction="sixsix")],
    )
    assert left_out(result) == [(1, "short_correction")]
    assert [row["messages"][-1]["content"] for row in values(result, "sft")] == ["B", "sixsix"]


def test_only_the_judged_turn_is_trained(tmp_path):
    asked = [{"role": "developer", "content": "Brief."}, user("Hi"), assistant("Hello"), user("2+2?")]
    result = imported(tmp_path, [line(asked, ["4"], {"rating": 5})])
    assert values(result, "sft") == [
        {
            "messages": [
                {"role": "system", "content": "Brief."},
                user("Hi"),
                assistant("Hello") | {"train": False},
                user("2+2?"),
                assistant("4"),
            ]
        }
    ]


def test_several_answers_on_a_line_make_a_pair(tmp_path):
    feedback = [{"choice": 0, "rating": 2}, {"choice": 1, "rating": 5}]
    result = imported(tmp_path, [line([user("2+2?")], ["5", "4", "22"], feedback)])
    assert values(result, "preference") == [
        {"prompt": [user("2+2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]}
    ]
    assert [(item.reason, item.choice) for item in result.left_out] == [("unrated", 2)]
    assert (result.lines, result.used, len(result.left_out)) == (1, 2, 1)


def test_an_answer_made_again_makes_a_pair(tmp_path):
    """One good and two bad answers on three lines: two pairs, as each bad answer is in one."""
    lines = [
        said(answer="5", rating="down"),
        said(answer="4", rating="up"),
        said(answer="22", rating="down"),
        said("3+3?", "7", rating="down"),
    ]
    result = imported(tmp_path, lines)
    assert [(row["chosen"], row["rejected"]) for row in values(result, "preference")] == [
        ([assistant("4")], [assistant("5")]), ([assistant("4")], [assistant("22")])
    ]  # fmt: skip
    assert len(values(result, "labelled")) == 4


def test_pairs_use_each_answer_and_no_more(tmp_path):
    """Three good, two bad: good 1 and bad 1, good 2 and bad 2, good 3 and bad 1 again; not all six."""
    lines = [said(answer=f"good {n}", rating="up") for n in (1, 2, 3)] + [
        said(answer=f"bad {n}", rating="down") for n in (1, 2)
    ]
    pairs = [
        (row["chosen"][0]["content"], row["rejected"][0]["content"])
        for row in values(imported(tmp_path, lines), "preference")
    ]
    assert pairs == [("good 1", "bad 1"), ("good 2", "bad 2"), ("good 3", "bad 1")]


def test_other_tools_are_another_prompt(tmp_path):
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    lines = [said(answer="5", rating="down"), line([user("2+2?")], ["4"], {"rating": "up"}, request={"tools": [tool]})]
    result = imported(tmp_path, lines)
    assert values(result, "preference") == []
    assert values(result, "sft")[0]["tools"] == [tool]


def test_ratings_between_and_no_ratings_are_left_out(tmp_path):
    result = imported(
        tmp_path, [said(rating=5), said("b?", rating=3), said("c?", comment="hm"), said("d?", rating=None), said("e?")]
    )
    assert left_out(result) == [(2, "between"), (3, "unrated"), (4, "unrated"), (5, "unrated")]


def test_the_same_judgement_twice_counts_once(tmp_path):
    result = imported(
        tmp_path,
        [said(rating="up"), said(rating="up"), said(answer="5", correction="4!"), said(answer="5", correction="4!")],
    )
    assert left_out(result) == [(2, "duplicate"), (4, "duplicate")]
    assert [row["messages"][-1]["content"] for row in values(result, "sft")] == ["4!", "4"]


def test_the_majority_decides_and_a_tie_decides_nothing(tmp_path):
    two_to_one = [said(rating="up"), said(rating="down"), said(rating="up")]
    tie = [said("b?", rating="up"), said("b?", rating="down")]
    result = imported(tmp_path, two_to_one + tie)
    assert left_out(result) == [(2, "outvoted"), (3, "duplicate"), (4, "contradictory"), (5, "contradictory")]
    assert len(values(result, "sft")) == 1 and values(result, "sft")[0]["messages"][-1] == assistant("4")


def test_several_people_may_judge_one_answer_on_one_line(tmp_path):
    result = imported(
        tmp_path,
        [
            line(
                [user("2+2?")],
                ["4"],
                [{"rating": "up", "by": "a"}, {"rating": "down", "by": "b"}, {"rating": "up", "by": "a"}],
            )
        ],
    )
    assert left_out(result) == [(1, "duplicate"), (1, "outvoted")]
    assert result.raters == ('"a"', '"b"')


def test_a_correction_is_a_vote_against_the_answer(tmp_path):
    """One for, one correction: a tie. Two for: the correction is outvoted. A correction of a good answer is no vote."""
    tie = [said(rating="up"), said(correction="four")]
    outvoted = [said("b?", rating="up"), said("b?", rating="up"), said("b?", correction="four")]
    better = [said("c?", rating="up"), said("c?", rating="up", correction="four")]
    result = imported(tmp_path, tie + outvoted + better)
    assert left_out(result) == [(1, "contradictory"), (2, "contradictory"), (4, "duplicate"), (5, "outvoted")]
    assert [row["messages"][-1]["content"] for row in values(result, "sft")] == ["4", "four", "4"]


def test_different_corrections_are_put_to_the_vote(tmp_path):
    lines = [said(answer="5", correction=text) for text in ("4", "four", "4")] + [
        said("b?", "5", correction=text) for text in ("4", "four")
    ]
    result = imported(tmp_path, [*lines, said("c?", rating="up")])
    assert left_out(result) == [(2, "outvoted"), (3, "duplicate"), (4, "contradictory"), (5, "contradictory")]


def test_a_correction_to_what_was_found_bad_contradicts(tmp_path):
    lines = [said(answer="5", correction="4"), said(answer="4", rating="down"), said("b?", rating="up")]
    assert left_out(imported(tmp_path, lines)) == [(1, "contradictory"), (2, "contradictory")]


def test_a_bad_rating_beside_a_correction_of_the_same_answer_adds_its_label_once(tmp_path):
    lines = [said(answer="5", correction="4"), said(answer="5", rating="down"), said(answer="22", rating="down")]
    result = imported(tmp_path, lines)
    assert [row["label"] for row in values(result, "labelled")] == [True, False, False]
    assert [row["rejected"][0]["content"] for row in values(result, "preference")] == ["5", "22"]
    lines[0]["feedback"]["rating"] = "down"
    assert left_out(imported(tmp_path, lines)) == [(2, "duplicate")]


def test_a_good_answer_that_a_correction_says_too_is_trained_once(tmp_path):
    result = imported(tmp_path, [said(answer="4", rating="up"), said(answer="5", correction="4")])
    assert left_out(result) == [(1, "duplicate")]
    assert len(values(result, "sft")) == 1 and len(values(result, "preference")) == 1


@pytest.mark.parametrize("finish", ["length", "content_filter", "abort"])
def test_an_unfinished_answer_is_in_no_row_but_may_be_corrected(tmp_path, finish):
    good = line([user("a?")], ["It goes on and"], {"rating": "up"}, finish)
    bad = line([user("b?")], ["It goes on and"], {"rating": "down"}, finish)
    fixed = line([user("c?")], ["It goes on and"], {"rating": "down", "correction": "It ends."}, finish)
    result = imported(tmp_path, [good, bad, fixed])
    assert left_out(result) == [(1, "unfinished"), (2, "unfinished")]
    assert values(result, "preference") == []
    assert [row["completion"] for row in values(result, "labelled")] == [[assistant("It ends.")]]
    assert "It goes on" not in str([item.values for item in result.made])


def test_tool_calls_are_answers(tmp_path):
    """Ids of calls are no part of an answer; a call that breaks its schema may be the worse answer, not the trained one."""
    tool = {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}},
        },
    }

    def call(arguments, name="1"):
        calls = [{"id": f"call_{name}", "type": "function", "function": {"name": "add", "arguments": arguments}}]
        return {"role": "assistant", "content": None, "tool_calls": calls, "refusal": None, "annotations": []}

    def asked(question, answer, rating):
        return line([user(question)], [answer], {"rating": rating}, "tool_calls", request={"tools": [tool]})

    right, wrong = call('{"a": 2}'), call('{"a": "two"}')
    lines = [
        asked("q", right, "up"),
        asked("q", call('{"a": 2}', "2"), "up"),
        asked("q", wrong, "down"),
        asked("r", wrong, "up"),
    ]
    result = imported(tmp_path, lines)
    assert left_out(result) == [(2, "duplicate"), (4, "untrainable")]
    assert values(result, "sft")[0]["messages"][1]["tool_calls"] == right["tool_calls"]
    assert len(values(result, "preference")) == 1


def test_a_correction_may_be_a_message_with_calls(tmp_path):
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    calls = [{"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}]
    correction = {"role": "assistant", "content": None, "tool_calls": calls}
    result = imported(
        tmp_path, [line([user("2+2?")], ["I can't."], {"correction": correction}, request={"tools": [tool]})]
    )
    assert values(result, "preference")[0]["chosen"] == [{"role": "assistant", "content": "", "tool_calls": calls}]


def test_nothing_to_use_is_an_error_that_counts(tmp_path):
    with pytest.raises(DataError, match=r"log.jsonl: nothing to train on; left out are unrated: 1, between: 1$"):
        imported(tmp_path, [said(), said("b?", rating="neutral")])


def test_a_correction_that_was_given_before_adds_its_pair_or_nothing(tmp_path):
    """Of a second answer it makes a second pair; of an answer that was cut off there is nothing left to make."""
    cut = line([user("2+2?")], ["It is"], {"correction": "4"}, "length")
    result = imported(tmp_path, [said(answer="5", correction="4"), said(answer="6", correction="4"), cut])
    assert left_out(result) == [(3, "duplicate")]
    assert (len(values(result, "sft")), len(values(result, "preference")), result.used) == (1, 2, 2)


def test_whatever_people_say_every_row_is_used_or_left_out(tmp_path):
    """All sequences of three judgements of two answers to one prompt, 2,744 of them: the rows add up, each
    answer is trained once at most and has one label at most, and no two pairs say the opposite."""
    kinds = [
        line([user("q")], [answer], feedback, finish)
        for answer, other in (("A", "B"), ("B", "A"))
        for feedback, finish in (
            ({"rating": "up"}, "stop"), ({"rating": "down"}, "stop"), ({"correction": other}, "stop"),
            ({"correction": "C"}, "stop"),
            ({"rating": "up", "correction": "C"}, "stop"), ({"rating": "down", "correction": other}, "stop"),
            ({"correction": "C"}, "length"),
        )
    ]  # fmt: skip
    entries = []
    for row in kinds:
        [entry] = entries_of(read_exchange(Row(row, "log", 1), []), [], [])
        entries.append(replace(entry, verdict=scale_of([]).verdict(entry.about["rating"])))
    assert len(entries) == 14
    for three in itertools.product(entries, repeat=3):
        gone: list = []
        kept = judge([replace(entry, line=number) for number, entry in enumerate(three)], 0.1, gone)
        made = make_rows(kept, gone)
        used = {entry.line for item in made for entry in item.entries}
        assert len(used) + len(gone) == 3 and used.isdisjoint(int(item.where[4:]) for item in gone)
        trained = [item.values["messages"][-1]["content"] for item in made if item.file == "sft.jsonl"]
        labels = [
            (item.values["completion"][0]["content"], item.values["label"])
            for item in made
            if item.file == "labelled.jsonl"
        ]
        assert len(set(trained)) == len(trained) and len(set(labels)) == len(labels)
        assert len({text for text, _ in labels}) == len(labels)
        pairs = [(item.values["chosen"], item.values["rejected"]) for item in made if item.file == "preference.jsonl"]
        assert all(better != worse and (worse, better) not in pairs for better, worse in pairs)
