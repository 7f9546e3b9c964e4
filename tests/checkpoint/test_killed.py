"""A writer killed before each of its operations in turn: what lies there afterwards, and what the next start makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from finetune.checkpoint.store import Store
from tests.checkpoint.made import filled, holds
from tests.conftest import ROOT


def killed_writers(folder, step: int) -> list[str]:
    """Runs `tests.checkpoint.killed`; what each writer was killed at."""
    command = [sys.executable, "-m", "tests.checkpoint.killed", str(folder), str(step)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("step", [100, 50], ids=["next step", "same step"])
def test_killed_at_every_operation_of_a_write(tmp_path, step):
    """T11: a new step with keep=1. T12: the same step again. Old until it is whole, new from then on, never neither."""
    killed_at = killed_writers(tmp_path, step)
    assert len(killed_at) >= 40
    values = []
    for point, operation in enumerate(killed_at, start=1):
        store = Store(tmp_path / str(point), keep=1)
        for entry in store.folder.glob("step-*"):  # before any repair: a final name is a whole checkpoint
            store.open(entry)
        found, skipped = store.newest()
        assert found is not None and skipped == [], f"killed before {operation}"
        value = found.state["value"]
        assert (found.step, holds(found.folder, value)) == ((50, True) if value == 1 else (step, True))
        assert not list(store.folder.glob(".*")), f"leftovers of the writer killed before {operation}"
        values.append(value)
        store.write(150, {"value": 3}, filled(3))  # the next start goes on
        assert store.steps() == [150]
    assert values == sorted(values) and set(values) == {1, 2}  # one moment of change
    assert values.count(1) >= 30 and values.count(2) >= 5  # killed while removing the old one, too


@pytest.mark.slow
def test_killed_between_the_renames_the_old_one_comes_back(tmp_path):
    """T12: the one moment without the final name; both whole ones lie beside it."""
    killed_at = killed_writers(tmp_path, 50)
    moments = [
        str(point) for point in range(1, len(killed_at) + 1) if not (tmp_path / f"{point}/step-00000050").exists()
    ]
    assert len(moments) == 1 and killed_at[int(moments[0]) - 1].startswith("os.rename .step-00000050.")
    store = Store(tmp_path / moments[0], keep=1)
    assert [len(list(store.folder.glob(f".*.{kind}/MANIFEST.json"))) for kind in ("old", "tmp")] == [1, 1]
    found, skipped = store.newest()
    assert found is not None and found.state == {"value": 1} and skipped == []
