"""The samples of the preference recipes have answers that compare."""

from __future__ import annotations

import pytest

from finetune.data.source import read_source
from finetune.data.template import load_template
from finetune.recipe_data import SourceSection
from tests.conftest import ROOT

SETS = ("finance/compliant_wording", "meteorology/warning_bulletin", "mining/gas_report")


@pytest.mark.parametrize("name", SETS)
def test_better_and_worse_answers_have_one_form(name):
    """Better and worse answers have the same three lines by name, and never say the same."""
    file = ROOT / f"data_templates/{name}.yaml"
    rows = read_source(SourceSection(path=str(file.with_suffix(".sample.jsonl"))))[:200]
    for sample in load_template(file).render_all(rows):
        better, worse = sample.answer.splitlines(), sample.rejected[-1]["content"].splitlines()
        assert len(better) == len(worse) == 3
        assert [line.split(": ")[0] for line in better] == [line.split(": ")[0] for line in worse]
        assert better != worse


def test_three_in_six_summaries_are_good():
    """By the draw: three times `none` in six. Among 1,200, 600 +- 4 standard deviations of 17.3."""
    file = ROOT / "data_templates/pharma/batch_deviation.yaml"
    samples = load_template(file).render_all(read_source(SourceSection(path=str(file.with_suffix(".sample.jsonl")))))
    good = sum(sample.marks == (1.0,) for sample in samples)
    assert 530 < good < 670
