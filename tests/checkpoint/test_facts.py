"""What a run must share with the checkpoint that it goes on from."""

from __future__ import annotations

from dataclasses import replace

from finetune.checkpoint.facts import FREE, differences, digest, facts_of
from finetune.data.chat import IGNORED, Example
from finetune.data.pack import pack
from finetune.data.store import ExampleStore
from finetune.recipe import TrainSection
from finetune.recipe_peft import LoraSection

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


def test_every_training_setting_is_a_fact_or_named_as_free():
    """A new key of `train` is compared unless someone has said that it may change."""
    train = TrainSection(max_steps=1, optim="muon", lr_groups={"head": 0.5})
    facts = facts_of(0, "sft", {}, {}, "float32", LoraSection(), train, [], [], None)
    settings = {key.removeprefix("train."): value for key, value in facts.items() if key.startswith("train.")}
    assert TrainSection.model_fields.keys() > FREE
    assert settings.keys() == TrainSection.model_fields.keys() - FREE
    assert settings["optim"] == "muon"
    assert settings["optim_args"] == {"momentum": 0.95, "ns_steps": 5}
    assert settings["lr_groups"] == {"head": 0.5}
    other = TrainSection(max_steps=1, optim="muon", lr_groups={"head": 0.5}, optim_args={"momentum": 0.9})
    assert list(differences(facts, facts_of(0, "sft", {}, {}, "float32", LoraSection(), other, [], [], None))) == [
        "train.optim_args: the checkpoint was made with {'momentum': 0.95, 'ns_steps': 5.0}, this run has "
        "{'momentum': 0.9, 'ns_steps': 5.0}"
    ]


def test_differences_name_both_values():
    lines = list(differences({"seed": 1, "lora.r": 8, "gone": 2}, {"seed": 1, "lora.r": 16, "new": 3}))
    assert lines == [
        "lora.r: the checkpoint was made with 8, this run has 16",
        "gone: the checkpoint was made with 2, this run has None",
        "new: the checkpoint was made with None, this run has 3",
    ]
