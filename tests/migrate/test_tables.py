"""The tables of keys: nothing of the installed peers is missing, every target is a key of a recipe, every key is read."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from finetune.migrate.keys import Key, as_kind
from finetune.migrate.peers import PEERS
from finetune.migrate.trl import RATE, RATES
from finetune.recipe import Recipe
from finetune.recipefile import section_class
from tests.conftest import ROOT

# Of newer or other classes, which no configuration of the three holds as a key.
TRL_CONFIGS = ("sft", "dpo", "kto", "reward", "base", "model")


def fields(package: str, file: str) -> dict[str, ast.expr | None]:
    """Fields of the dataclasses in a file of an installed package, with what they are set to; nothing is imported."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    nodes = [node for one in classes for node in one.body if isinstance(node, ast.AnnAssign)]
    return {node.target.id: node.value for node in nodes if isinstance(node.target, ast.Name)}


def default(value: ast.expr | None) -> object:
    """The default out of `field(default=...)`."""
    assert isinstance(value, ast.Call)
    return next(ast.literal_eval(word.value) for word in value.keywords if word.arg == "default")


def test_no_field_of_transformers_is_missing():
    known = fields("transformers", "training_args.py")
    assert len(known) > 90
    for peer in ("llamafactory", "trl"):
        assert known.keys() - PEERS[peer].table.keys() == set()


@pytest.mark.parametrize("name", TRL_CONFIGS)
def test_no_field_of_trl_is_missing(name):
    known = fields("trl", f"trainer/{name}_config.py")
    assert known and known.keys() - PEERS["trl"].table.keys() == set()


def test_no_field_of_trl_s_script_arguments_is_missing():
    known = fields("trl", "scripts/utils.py").keys() - {
        "path",
        "name",
        "data_dir",
        "data_files",
        "split",
        "columns",
        "fraction",
    }
    assert known - PEERS["trl"].table.keys() == set()


def test_defaults_of_trl_and_transformers_are_the_ones_written_down():
    """Read from their installed sources: a newer version with other defaults fails here, not in somebody's run."""
    for name in ("sft", "dpo", "kto", "reward"):
        config = fields("trl", f"trainer/{name}_config.py")
        assert default(config["learning_rate"]) == RATES.get(name, RATE), name
        assert default(config["max_length"]) == 1024
    base, model = fields("trl", "trainer/base_config.py"), fields("trl", "trainer/model_config.py")
    assert default(base["gradient_checkpointing"]) is True
    assert [default(model[f"lora_{key}"]) for key in ("r", "alpha", "dropout")] == [16, 32, 0.05]
    trainer = fields("transformers", "training_args.py")
    keys = (
        "per_device_train_batch_size",
        "num_train_epochs",
        "learning_rate",
        "lr_scheduler_type",
        "save_steps",
        "seed",
    )
    assert [default(trainer[key]) for key in keys] == [8, 3.0, 5e-5, "linear", 500, 42]
    assert [default(trainer[key]) for key in ("warmup_steps", "weight_decay", "max_grad_norm")] == [0, 0.0, 1.0]


def is_a_key(target: str) -> bool:
    section = Recipe
    for part in target.split("."):
        if section is None or part not in section.model_fields:
            return target.startswith(("lora.", "oft."))  # peft's own, checked as a recipe is loaded
        section = section_class(section.model_fields[part].annotation)
    return True


@pytest.mark.parametrize("name", PEERS)
def test_every_target_is_a_key_and_every_row_says_one_thing(name):
    for key, row in PEERS[name].table.items():
        assert sum(map(bool, (row.to, row.lost, row.idle))) <= 1, key
        assert not row.to or is_a_key(row.to), key


@pytest.mark.parametrize("name", PEERS)
def test_every_key_that_is_to_be_read_is(name):
    """Its name stands in the code that translates."""
    shared = ["trainer.py", "training.py", "optimizers.py"]
    own = [file.name for file in (ROOT / "finetune/migrate").glob(f"{name}*.py") if not file.name.endswith("_keys.py")]
    code = "\n".join(
        (ROOT / "finetune/migrate" / file).read_text(encoding="utf-8") for file in [*shared, *own, "command.py"]
    )
    trackers = {f"use_{tracker}" for tracker in ("wandb", "tensorboard", "trackio", "swanlab", "mlflow", "comet")}
    to_read = [key for key, row in PEERS[name].table.items() if not (row.to or row.lost or row.idle)]
    code = code.split("def set_training", 1)[0].rpartition("TRAINER: ")[0] + code.split("def set_training", 1)[-1]
    assert [key for key in to_read if f'"{key}"' not in code and key not in trackers] == []


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        ("flag", "yes", True), ("flag", "off", False), ("number", "2e-5", 2e-5), ("whole", 3.0, 3), ("whole", "8", 8),
        ("number", 1, 1), ("names", "a, b", ["a", "b"]), ("names", ["a"], ["a"]), ("text", 3, "3"), ("whole", None, None),
    ],
)  # fmt: skip
def test_values_are_read_as_their_kind(kind, value, wanted):
    assert as_kind(value, kind) == wanted


@pytest.mark.parametrize(
    ("kind", "value"), [("flag", 1), ("whole", 2.5), ("number", True), ("names", {"a": 1}), ("text", [1])]
)
def test_values_of_other_kinds_are_refused(kind, value):
    with pytest.raises(ValueError):
        as_kind(value, kind)


def test_a_key_says_nothing_where_it_is_off():
    assert all(Key(off=("main",)).says_nothing(value) for value in (None, False, "", [], {}, "none", "main"))
    assert not Key().says_nothing(0.1)


@pytest.mark.parametrize("page", ["docs/migrate.md", "docs/migrate.zh-CN.md"])
def test_the_page_s_table_names_keys_that_there_are(page):
    """First column: keys of ours; then those of LLaMA-Factory, Axolotl and TRL."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    rows = [
        [re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split("|")]
        for line in lines
        if re.match(r"\| `[a-z]", line)
    ]
    assert len(rows) > 25
    for ours, *theirs in rows:
        assert all(is_a_key(key) for key in ours), ours
        for name, keys in zip(("llamafactory", "axolotl", "trl"), theirs, strict=True):
            assert [key for key in keys if key not in PEERS[name].table] == []
