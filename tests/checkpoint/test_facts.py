"""What a run must share with the checkpoint that it goes on from."""

from __future__ import annotations

from dataclasses import replace

from finetune.checkpoint.facts import differences, digest
from finetune.data.chat import IGNORED, Example
from finetune.data.pack import pack
from finetune.data.store import ExampleStore

ROWS = [Example((5, 6, 7), (IGNORED, 6, 7), "a:1"), Example((8, 9), (IGNORED, 9), "a:2")]


def test_the_digest_is_of_what_is_trained_in_its_order(tmp_path, monkeypatch):
    """The same for a list and for a store, wherever the rows lie; another for other labels, order, borders or packs."""
    monkeypatch.setattr("finetune.checkpoint.facts.BLOCK", 2)
    whole = digest(ROWS)
    assert whole.startswith("2 with sha256 ")
    assert digest(ExampleStore.write(tmp_path / "store", ROWS)) == whole
    assert digest([replace(row, where="b:9") for row in ROWS]) == whole
    others = [
        [replace(ROWS[0], labels=(5, 6, 7)), ROWS[1]],
        ROWS[::-1],
        [Example((5, 6), (IGNORED, 6), "a:1"), Example((7, 8, 9), (7, IGNORED, 9), "a:2")],
        pack(ROWS, 16),
        [*pack(ROWS[:1], 16), *pack(ROWS[1:], 16)][:1],
        [],
    ]
    assert len({whole, *map(digest, others)}) == 7


def test_differences_name_both_values():
    lines = list(differences({"seed": 1, "lora.r": 8, "gone": 2}, {"seed": 1, "lora.r": 16, "new": 3}))
    assert lines == [
        "lora.r: the checkpoint was made with 8, this run has 16",
        "gone: the checkpoint was made with 2, this run has None",
        "new: the checkpoint was made with None, this run has 3",
    ]
