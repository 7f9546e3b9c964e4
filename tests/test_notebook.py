"""docs/first_model.ipynb runs, says what it was committed with, and docs/python.md has the names that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import finetune
from tests.conftest import ROOT

NOTEBOOK = ROOT / "docs/first_model.ipynb"
ABSOLUTE = r"""(?:^|[\s'"=(])/\w+/\w"""


@pytest.mark.parametrize("name", ["docs/python.md", "docs/python.zh-CN.md"])
def test_the_page_has_every_name(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert {word for row in rows for word in re.findall(r"`(\w+)", row)} == set(finetune.__all__)


def test_it_was_executed_from_its_first_cell_to_its_last():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    texts = [output.get("text") or output.data.get("text/plain", "") for cell in code for output in cell.outputs]
    assert any("runs/first/bundle" in text for text in texts)
    assert [text for text in texts if re.search(ABSOLUTE, text)] == [], "a path of the machine that it was executed on"


def executed(folder: Path, **shorter: str) -> dict[str, dict[str, float]]:
    """The scores of the notebook run in an empty folder, with some of its settings replaced."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for setting, instead in shorter.items():
        (cell,) = [cell for cell in notebook.cells if f'{setting}":' in cell.source and cell.cell_type == "code"]
        cell.source = re.sub(rf'{setting}": \d+', f'{setting}": {instead}', cell.source)
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    assert (folder / "runs/first/report.html").is_file()
    return json.loads((folder / "runs/first/scores.json").read_text(encoding="utf-8"))["scores"]


@pytest.mark.slow
def test_its_cells_run(tmp_path):
    """On the real small model, with one step and a few rows, so that a score may be anything."""
    scores = executed(tmp_path, max_steps='1, "gate.better_than_base": False', rows="4")
    assert scores.keys() == {"base", "tuned"}


@pytest.mark.slow
@pytest.mark.long
def test_the_tuned_model_is_better_after_its_few_steps(tmp_path):
    scores = executed(tmp_path)
    assert scores["tuned"]["label_right"] > scores["base"]["label_right"]
