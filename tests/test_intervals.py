"""Bootstrap intervals: against the binomial distribution, against scores of rows drawn one by one, and in the gate."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from finetune.errors import GateError, RecipeError
from finetune.evaluate.corpus import counts
from finetune.evaluate.gate import judge, pass_gate
from finetune.evaluate.intervals import RESAMPLES, Drawn, Intervals, Losses, Rows, _weights, intervals, numbered
from finetune.evaluate.measure import Measured
from finetune.evaluate.metrics import aggregate
from finetune.evaluate.results import Evaluated, score_lines
from finetune.recipe_evaluate import GateSection


def rows_of(values, tuned=None, groups=None, tasks=None) -> Rows:
    base = [{"exact": float(value)} for value in values]
    other = [{"exact": float(value)} for value in (values if tuned is None else tuned)]
    numbers = np.arange(len(base)) if groups is None else np.array(groups)
    return Rows(base, other, numbers, tasks or [""] * len(base))


def test_the_interval_of_a_share_is_that_of_the_binomial_distribution():
    """140 of 200 rows right: a drawn sum is binomial (200, 0.7), whose 2.5 % and 97.5 % points are 127 and 153
    (scipy.stats.binom.ppf); 1,000 draws find them within one row in two hundred or so."""
    found = intervals({"": rows_of([1] * 140 + [0] * 60)}, ["exact"])
    assert found.base == found.tuned
    assert found.base["exact"] == pytest.approx((127 / 200, 153 / 200), abs=0.0101)
    assert found.difference["exact"] == (0.0, 0.0)
    assert (found.rows, found.groups) == ({"": 200}, {"": 200})


def test_groups_are_drawn_whole():
    """Four copies of each row, in one group: the interval of the rows without copies, to the last bit nearly. Drawn row
    by row it would be half as wide."""
    values = np.random.default_rng(1).random(50)
    once = intervals({"": rows_of(values)}, ["exact"]).base["exact"]
    copied = [value for value in values for _ in range(4)]
    whole = intervals({"": rows_of(copied, groups=[g for g in range(50) for _ in range(4)])}, ["exact"])
    alone = intervals({"": rows_of(copied)}, ["exact"]).base["exact"]
    assert whole.base["exact"] == pytest.approx(once, abs=1e-12)
    assert whole.groups == {"": 50}
    assert (alone[1] - alone[0]) / (once[1] - once[0]) == pytest.approx(0.5, abs=0.06)


def test_the_difference_is_paired():
    """Each row better by a quarter: the difference is a quarter in every draw, though both scores are unsure."""
    values = np.random.default_rng(2).random(40) / 2
    found = intervals({"": rows_of(values, values + 0.25)}, ["exact"])
    assert found.difference["exact"] == pytest.approx((0.25, 0.25))
    assert found.base["exact"][1] - found.base["exact"][0] > 0.05


def test_drawn_scores_are_those_of_the_rows_drawn():
    """Means over the rows that have a score, and F1 of counts, are for every draw what `aggregate` makes of its rows."""
    rng = np.random.default_rng(3)
    rows = []
    for n in range(24):
        wanted = [(str(rng.choice(["a", "b", "rare"] if n == 0 else ["a", "b"])),)]
        given = [(str(rng.choice(["a", "b", "c"])),)] if n % 7 else []
        rows.append(counts("label", given, wanted) | {"exact": float(rng.random())} | ({"few": 1.0} if n < 3 else {}))
    groups = numbered([str(n // 3) for n in range(24)])
    chosen = np.array([n != 5 for n in range(24)])
    weights = np.concatenate([*_weights(8, 300)])
    assert weights.shape == (RESAMPLES, 8) and (weights.sum(1) == 8).all()
    drawn = Drawn(rows, groups, chosen).scores(weights)
    for place in range(0, RESAMPLES, 97):
        again = [
            row for n, row in enumerate(rows) for _ in range(int(weights[place, groups[n]])) if chosen[n]
        ]  # fmt: skip
        expected = aggregate(again)
        for name, values in drawn.items():
            assert values[place] == pytest.approx(expected.get(name, np.nan), nan_ok=True), name


def test_every_score_of_every_task_and_part_has_an_interval_of_its_own():
    tasks = ["depth"] * 20 + ["grade"] * 20
    rows = rows_of([0] * 20 + [1, 0] * 10, [1] * 20 + [1, 0] * 10, tasks=tasks)
    found = intervals({"one": rows, "two": rows_of([0, 1])}, ["one/exact", "one/depth/exact", "two/exact"])
    assert [*found.tuned] == ["one/exact", "one/depth/exact", "two/exact"]  # those that are reported
    assert found.difference["one/depth/exact"] == (1.0, 1.0)
    low, high = found.difference["one/exact"]
    assert 0.3 < low < 0.5 < high < 0.7
    assert (found.rows, found.groups) == ({"one": 40, "two": 2}, {"one": 40, "two": 2})


def test_one_group_gives_no_interval():
    found = intervals({"": rows_of([0, 1, 1], groups=[0, 0, 0])}, ["exact"])
    assert (found.tuned, found.groups) == ({}, {"": 1})


def test_the_same_rows_give_the_same_interval_and_fast():
    """200 rows of 20 scores, base and tuned."""
    values = np.random.default_rng(4).random((200, 20))
    rows = [{f"score{i}": float(value) for i, value in enumerate(row)} for row in values]
    given = Rows(rows, rows[::-1], np.arange(200), [""] * 200)
    began = time.perf_counter()
    first = intervals({"": given}, [*rows[0]])
    seconds = time.perf_counter() - began
    assert intervals({"": given}, [*rows[0]]) == first
    assert json.loads(json.dumps(first.record()))["tuned"].keys() == rows[0].keys()
    assert seconds < 0.2


def test_large_sets_are_drawn_in_blocks_of_the_same_draws():
    together, apart = (np.concatenate([*_weights(7, at_once)]) for at_once in (RESAMPLES, 13))
    assert (together == apart).all()


def test_the_printed_table():
    scores = {"base": {"exact": 0.5}, "tuned": {"exact": 0.965}}
    found = Intervals({"": 9}, {"": 9}, {"exact": (0.4, 0.6)}, {"exact": (0.95, 0.978)}, {"exact": (0.1, 0.7)})
    assert score_lines(scores, found) == [
        "score   base                 tuned                 tuned - base",
        "exact  0.500 [0.400, 0.600]  0.965 [0.950, 0.978]  0.465 [0.100, 0.700]",
    ]
    assert score_lines({"base": {"mean_logprob": -1.0}, "tuned": {"mean_logprob": -0.5}}) == [
        "score          base   tuned", "mean_logprob  -1.000  -0.500", "(perplexity)  2.718   1.649",
    ]  # fmt: skip


FOUND = Intervals({"": 9}, {"": 9}, {"exact": (0.4, 0.6)}, {"exact": (0.89, 0.95)}, {"exact": (-0.01, 0.5)})


def gate(section: GateSection, base: dict[str, float], tuned: dict[str, float], found: Intervals | None = None) -> None:
    pass_gate(judge(section, Evaluated({"base": base, "tuned": tuned}, found)))


def test_the_gate_asks_for_the_lower_end():
    base, tuned = {"exact": 0.5}, {"exact": 0.92}
    loose = GateSection(min={"exact": 0.9})
    gate(loose, base, tuned, FOUND)
    with pytest.raises(GateError) as error:
        gate(GateSection(min={"exact": 0.9}, confident=True), base, tuned, FOUND)
    assert [*str(error.value).splitlines()][1:] == [
        "gate.min.exact: 0.9200 [0.8900, 0.9500]: the lower end is not 0.9000 or more (gate.confident)",
        "gate.better_than_base: exact: tuned - base lies in [-0.0100, 0.5000]: the lower end is not above 0 (gate.confident)",
    ]
    gate(GateSection(min={"exact": 0.89}, better_than_base=False, confident=True), base, tuned, FOUND)
    with pytest.raises(GateError, match="nan"):
        gate(GateSection(confident=True), base, tuned, None)


def test_a_score_that_no_held_out_row_has_does_not_pass():
    """A type of the worked example that the held-out references lack."""
    with pytest.raises(GateError, match=r"gate.min.entity_f1/rare: no held-out row has this score"):
        gate(GateSection(min={"entity_f1/rare": 0.5}), {"exact": 0.1}, {"exact": 0.2})


def test_held_out_losses_by_hand():
    """Three documents of 4, 1 and 1 tokens with losses 4, 2, 6 in the base: -12 / 6 nats a token. Drawn again: the ends of the
    middle 95 % of 1,000 draws of three of them; tuned is a half of base in each draw, so the difference is too."""
    names = ("loss", "count", "right", "right:count")
    of_means = lambda means: {"mean_logprob": -means["loss"], "right": means["right"]}  # noqa: E731
    base = Measured(names, np.array([[4.0, 4, 1, 1], [2, 1, 0, 0], [6, 1, 0, 1]]), of_means)
    tuned = Measured(names, base.sums * [0.5, 1, 1, 1], of_means)
    assert base.scores == {"mean_logprob": -2.0, "right": 0.5}
    found = intervals({}, ["mean_logprob", "right"], {"": Losses(base, tuned, np.arange(3))})
    assert (found.rows, found.groups) == ({"": 3}, {"": 3})
    generator = np.random.default_rng(0)
    picked = generator.integers(0, 3, (1000, 3))
    loss, count, right, asked = base.sums[picked].sum(1).T
    ends = np.quantile(-loss / count, (0.025, 0.975))
    assert found.base["mean_logprob"] == pytest.approx(tuple(ends))
    assert found.tuned["mean_logprob"] == pytest.approx(tuple(ends / 2))
    assert found.difference["mean_logprob"] == pytest.approx(tuple(np.quantile(loss / count / 2, (0.025, 0.975))))
    rates = (right / np.where(asked == 0, np.nan, asked))[asked > 0]  # draws of the second document alone are left out
    assert len(rates) < 1000 and found.base["right"] == pytest.approx(tuple(np.quantile(rates, (0.025, 0.975))))


def test_held_out_rows_of_one_group_are_refused_before_training(tiny_recipe, tmp_path):
    from finetune.inputs import load_data
    from finetune.recipefile import load_recipe

    tiny_recipe()
    file = tmp_path / "tiny.yaml"
    one = ["data.split={by: group, eval_rows: 1}", "gate.confident=true"]
    with pytest.raises(RecipeError, match=r"gate.confident: all \d+ held-out samples have the same 'group'"):
        load_data(load_recipe(file, one))
    load_data(load_recipe(file, [*one[1:]]))


def test_an_older_runs_record_has_none(tmp_path, finished_run):
    from finetune.export.record import FILE, read_record

    recipe, result = finished_run
    told = json.loads((recipe.output_dir / FILE).read_text())
    assert result.manifest["intervals"] == told["intervals"]
    assert result.manifest["intervals"]["tuned"].keys() == result.scores["tuned"].keys()
    assert result.manifest["intervals"]["groups"] != result.manifest["intervals"]["rows"]  # split by a column
    del told["intervals"]
    (tmp_path / FILE).write_text(json.dumps(told))
    assert read_record(tmp_path).intervals is None
