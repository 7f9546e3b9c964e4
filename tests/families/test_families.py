"""docs/families.md says of every family what its own run comes to."""

from __future__ import annotations

import pytest

from tests.families.configs import FAMILIES
from tests.families.table import WORDS, rendered, run_family, written

QUICK = ("qwen3",)  # the others run with the slow tests


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_a_family_comes_to_what_the_table_says(family, tmp_path):
    """Trained for 3 steps, resumed after the first, merged, proved, loaded, verified; the line of each language."""
    row = run_family(family, tmp_path)
    for language in WORDS:
        assert rendered(row, language) in written(language).splitlines()


@pytest.mark.parametrize("language", WORDS)
def test_the_table_has_every_family_once_in_order(language):
    lines = [line for line in written(language).splitlines() if line.startswith("|")]
    assert lines[0] == WORDS[language]["head"]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == [title for title, _ in FAMILIES.values()]
