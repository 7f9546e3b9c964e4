"""Held-out rows: no group on both sides, the same rows in whatever order they come, nothing older than the date."""

from __future__ import annotations

import datetime as dt
import random

import pytest

from finetune.data.rows import Sample
from finetune.data.split import split_by_time, split_rows, split_samples
from finetune.data.spool import SampleFile
from finetune.errors import DataError
from finetune.recipe_data import SplitSection


def rows(*records: dict) -> SampleFile:
    return SampleFile.of(Sample(record, (), f"f:{i}") for i, record in enumerate(records, start=1))


def wheres(samples: SampleFile) -> list[str]:
    return [sample.where for sample in samples]


def test_a_split_by_group_is_stable_under_reordering():
    """T45: the same rows are held out in whatever order they come."""
    samples = rows(*({"g": f"s{i % 30}", "n": i} for i in range(100)))
    train, held_out = split_rows(samples, "g", 20, seed=1)
    assert not {s.record["g"] for s in train} & {s.record["g"] for s in held_out}
    assert len(held_out) in range(20, 24) and len(train) + len(held_out) == 100
    shuffled = SampleFile.of(random.Random(0).sample(samples, 100))
    assert set(wheres(split_rows(shuffled, "g", 20, seed=1)[1])) == set(wheres(held_out))
    assert set(wheres(split_rows(samples, "g", 20, seed=2)[1])) != set(wheres(held_out))


def test_a_group_may_be_inside_an_object_and_a_name_with_a_dot_goes_first():
    """TAT-QA's questions are held out by `table.uid`; a CSV may have a column of that very name."""
    nested = rows(*({"table": {"uid": f"s{i % 30}"}, "n": i} for i in range(100)))
    flat = rows(*({"g": f"s{i % 30}", "n": i} for i in range(100)))
    dotted = rows(*({"table.uid": f"s{i % 30}", "table": {"uid": "x"}, "n": i} for i in range(100)))
    held_out = wheres(split_rows(flat, "g", 20, seed=1)[1])
    assert wheres(split_rows(nested, "table.uid", 20, seed=1)[1]) == held_out
    assert wheres(split_rows(dotted, "table.uid", 20, seed=1)[1]) == held_out
    for record in ({"table": {"id": "a"}}, {"table": "a"}, {"other": 1}):
        with pytest.raises(DataError, match=r"f:1: table\.uid: is missing"):
            split_rows(rows(record, {"table": {"uid": "b"}}), "table.uid", 1, seed=0)


def test_without_a_group_what_shares_record_prompt_or_text_stays_together_in_any_order():
    """T45: variants in case, width and zero-width characters never fall on both sides."""
    samples = []
    for n in range(40):
        for variant, question in enumerate((f"Gas {n}%?", f"ＧＡＳ {n}％?", f"gas\u200b  {n}%?")):
            messages = ({"role": "user", "content": question}, {"role": "assistant", "content": str(variant)})
            samples.append(Sample({"n": n, "v": variant}, messages, f"f:{n}.{variant}"))
        # Two prompts of one record, one of them with words of its own.
        messages = ({"role": "user", "content": f"Other words for {n}"}, {"role": "assistant", "content": "x"})
        samples.append(Sample({"n": n, "v": 0}, messages, f"f:{n}.3"))
    train, held_out = split_rows(SampleFile.of(samples), None, 30, seed=0)
    assert len(held_out) == 32 and len(train) == 128  # eight whole groups of four
    assert not {s.record["n"] for s in train} & {s.record["n"] for s in held_out}
    shuffled = SampleFile.of(random.Random(3).sample(samples, len(samples)))
    assert set(wheres(split_rows(shuffled, None, 30, seed=0)[1])) == set(wheres(held_out))


def test_a_long_chain_of_shared_records_and_prompts_is_one_group():
    """Row 0 shares its record with 1, 1 its prompt with 2, 2 its record with 3 ...: 40 rows in any order, 10 more alone."""
    samples = []
    for n in range(50):
        prompt = f"prompt {(n + 1) // 2 if n < 40 else n}"
        messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": str(n)})
        samples.append(Sample({"record": n // 2 if n < 40 else n}, messages, f"f:{n}"))
    for seed in range(5):
        shuffled = SampleFile.of(random.Random(seed).sample(samples, 50))
        with pytest.raises(DataError, match="there are 50 rows in 11 groups"):
            split_rows(shuffled, None, 1000, seed)


def test_a_group_column_that_a_row_lacks_is_named():
    with pytest.raises(DataError) as caught:
        split_rows(rows({"mine": 1}, {"min": 2}, {}), "mine", 1, seed=0)
    assert caught.value.problems == ["f:2: mine: is missing; did you mean 'min'?", "f:3: mine: is missing"]


TIMES = [
    {"t": "2022-10-30"}, {"t": dt.date(2022, 10, 31)}, {"t": dt.datetime(2022, 10, 30, 23, 59, tzinfo=dt.UTC)},
    {"t": "2022-10-31T00:00:00"}, {"t": "2022-10-31T01:00:00+08:00"}, {"t": "2022-10"}, {"t": 2023}, {"t": "2022"},
]  # fmt: skip


def test_by_time_the_boundary_itself_is_held_out():
    """01:00 in Beijing is 17:00 UTC of the day before."""
    train, held_out = split_by_time(rows(*TIMES), "t", "2022-10-31")
    assert wheres(train) == ["f:1", "f:3", "f:5", "f:6", "f:8"]
    assert wheres(held_out) == ["f:2", "f:4", "f:7"]


def test_by_time_and_group_a_group_with_a_late_row_is_held_out_whole():
    samples = rows(
        {"t": "2020-01-01", "mine": "a"}, {"t": "2023-01-01", "mine": "b"}, {"t": "2020-06-01", "mine": "b"},
        {"t": "2021-01-01", "mine": "c"}, {"t": "2022-01-01", "mine": "d"},
    )  # fmt: skip
    section = SplitSection(time_column="t", train_before="2022-01-01", by="mine")
    train, held_out = split_samples(samples, section, seed=0)
    assert wheres(train) == ["f:1", "f:4"]
    assert wheres(held_out) == ["f:2", "f:3", "f:5"]
    by_count = split_samples(samples, SplitSection(eval_rows=1, by="mine"), seed=0)
    again = split_rows(samples, "mine", 1, seed=0)
    assert [list(half) for half in by_count] == [list(half) for half in again]


def test_times_that_cannot_be_read_are_all_named():
    with pytest.raises(DataError) as caught:
        split_by_time(rows({"t": "31.10.2022"}, {"t": None}, {"T": "2022"}, {"t": "2022"}), "t", "2022-10-31")
    form = "a time as 2022-10-31 or 2022-10-31T09:30:00Z is needed, got"
    assert caught.value.problems == [
        f"f:1: t: {form} '31.10.2022'", f"f:2: t: {form} None", "f:3: t: is missing; allowed: T",
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"data.split.train_before: a time as .* got 'soon'"):
        split_by_time(rows({"t": "2022"}), "t", "soon")


@pytest.mark.parametrize(
    ("before", "by", "message"),
    [
        ("2020", None, "data.split.train_before: 2020 leaves nothing to train on of 2 rows"),
        ("2024", None, "data.split.train_before: 2024 leaves nothing to hold out of 2 rows"),
        (
            "2022",
            "g",
            "data.split.train_before: 2022 leaves nothing to train on of 2 rows; every 'g' has a row from then on",
        ),
    ],
)
def test_a_side_that_would_be_empty_is_refused(before, by, message):
    with pytest.raises(DataError) as caught:
        split_by_time(rows({"t": "2021", "g": 1}, {"t": "2023", "g": 1}), "t", before, by)
    assert caught.value.problems == [message]
