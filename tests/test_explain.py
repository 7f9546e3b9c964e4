"""`finetune explain`: every value stands where the person who asks finds it, and is the one that `train` gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.explain.values import values_of
from finetune.recipe import resolved
from finetune.recipefile import load_recipe, load_traced
from tests.conftest import ROOT

METAR = "recipes/meteorology/metar_decode.yaml"
CHAIN = "recipes/mining/mine_assistant.yaml"
MIXTURE = "recipes/meteorology/metar_mixture.yaml"


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.chdir(ROOT)


def line_of(file: str, text: str, nth: int = 0) -> int:
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return [number for number, line in enumerate(lines, 1) if text in line][nth]


def explained(capsys, *arguments: str) -> list[str]:
    assert main(["explain", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def refused(capsys, *arguments: str) -> str:
    assert main(["explain", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    return told.err.strip()


def test_a_key_with_its_parent_s_line_its_flag_and_its_default(capsys):
    parent = f"recipes/smollm2_cpu.yaml:{line_of('recipes/smollm2_cpu.yaml', 'learning_rate')}"
    about = ["  meaning:  peak rate", "  type:     a number above 0", "  default:  0.0002"]
    assert explained(capsys, METAR, "train.learning_rate") == [f"train.learning_rate  0.002  {parent}", *about]
    flags = ["--set", "train.learning_rate=1e-3", "--set", "train.learning_rate=1e-4"]
    flagged = "train.learning_rate  0.0001  --set train.learning_rate=1e-4"
    assert explained(capsys, METAR, "train.learning_rate", *flags) == [flagged, *about]
    assert explained(capsys, METAR, "train.weight_decay")[0] == "train.weight_decay  0.0  default"
    own = f"gate.min.all_fields  0.6  {METAR}:{line_of(METAR, 'all_fields')}"
    assert explained(capsys, METAR, "gate.min.all_fields")[0] == own


def test_a_section_has_all_its_keys_peft_s_too(capsys):
    lines = [line.split() for line in explained(capsys, METAR, "lora", "--set", "lora.use_rslora=true")]
    told = {key: (value, where) for key, value, *_, where in lines}
    assert told["lora.use_rslora"] == ("true", "lora.use_rslora=true")
    assert told["lora.init_lora_weights"] == ("true", "default") and told["lora.lora_dropout"] == ("0.0", "default")
    assert told["lora.r"][0] == "16" and told["lora.r"][1].startswith("recipes/smollm2_cpu.yaml:")
    assert "lora.use_qalora" not in told  # not taken
    assert explained(capsys, METAR, "lora.use_qalora")[1].startswith("  meaning:  Not taken: QALoRA pools")
    meaning = explained(capsys, METAR, "lora.use_rslora")[1]
    assert meaning.startswith("  meaning:  A field of peft.LoraConfig. ") and "Rank-Stabilized" in meaning


def test_a_section_of_another_stage_is_not_there(capsys):
    assert explained(capsys, METAR, "dpo.beta") == [
        "dpo.beta  null  not in this recipe",
        "  meaning:  how closely the policy is held to its reference", "  type:     a number above 0", "  default:  0.1",
    ]  # fmt: skip


def test_a_chain_shows_each_stage(capsys):
    lines = explained(capsys, CHAIN, "train.learning_rate", "--set", "stages.1.train.learning_rate=5e-4")
    assert lines[:3] == [
        f"stages.0.train.learning_rate  0.001   {CHAIN}:{line_of(CHAIN, 'learning_rate')} (stage law)",
        "stages.1.train.learning_rate  0.0005  --set stages.1.train.learning_rate=5e-4",
        f"stages.2.train.learning_rate  0.0001  {CHAIN}:{line_of(CHAIN, 'learning_rate', 2)} (stage reports)",
    ]
    shared = explained(capsys, CHAIN, "stages.2.train.global_batch_size")[0]
    assert shared == (
        f"stages.2.train.global_batch_size  16  recipes/smollm2_cpu.yaml:"
        f"{line_of('recipes/smollm2_cpu.yaml', 'global_batch_size')}"
    )
    assert refused(capsys, CHAIN, "stages.9") == "stages.9: this recipe has stages 0 to 2"
    assert refused(capsys, METAR, "stages.0.data") == "stages.0.data: this recipe has no stages"


def test_a_mixture_shows_each_part(capsys):
    lines = explained(capsys, MIXTURE, "data.max_length", "--set", "mixture.2.data.max_length=99")
    whole = f"{MIXTURE}:{line_of(MIXTURE, 'max_length')}"
    assert lines[:3] == [
        f"mixture.0.data.max_length  384  {whole}",
        f"mixture.1.data.max_length  384  {whole}",
        "mixture.2.data.max_length  99   --set mixture.2.data.max_length=99",
    ]
    assert explained(capsys, MIXTURE, "weight")[1].endswith(
        f"{MIXTURE}:{line_of(MIXTURE, 'weight: 2')} (part bulletin)"
    )


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("train.learning_rat", "train.learning_rat: no such key; did you mean 'train.learning_rate'?"),
        ("learning_rate", "learning_rate: no such key; did you mean 'train.learning_rate'?"),
        ("data.lora_alpha", "data.lora_alpha: no such key; did you mean 'lora.lora_alpha'?"),
        ("beta", "beta: no such key; did you mean 'dpo.beta', 'orpo.beta' or 'simpo.beta'?"),
        ("train.梯度", "train.梯度: no such key; did you mean 'train'?"),
        ("", "KEY: no such key"),
        ("extends", "extends: names the parent; each value is shown with the file that it comes from"),
    ],
)
def test_a_wrong_key_is_told_the_nearest(key, said, capsys):
    assert refused(capsys, METAR, key) == said


def test_a_recipe_that_does_not_load_says_so_as_check_does(capsys, tmp_path):
    file = tmp_path / "配方.yaml"
    file.write_text("name: n\nlora: {rr: 3}\n", encoding="utf-8")
    assert main(["check", str(file)]) == 2
    checked = capsys.readouterr().err.strip()
    assert refused(capsys, str(file), "lora.r") == checked and "lora.rr: not a field of peft.LoraConfig" in checked
    assert refused(capsys, str(tmp_path / "none.yaml")) == f"{tmp_path / 'none.yaml'}: no such file"


def test_what_is_replaced_takes_its_lines_along(capsys, tmp_path):
    """A shorter list of the child, a section set whole: nothing under them is the parent's any more."""
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "parent.yaml").write_text(
        "model: {name_or_path: m}\noutput_dir: o\ntrain:\n  max_steps: 3\n  learning_rate: 1e-3\n"
        "data:\n  format: auto\n  split: {eval_rows: 2}\n  train:\n    - rows.jsonl\n    - {path: rows.jsonl, repeat: 2}\n"
    )
    child = tmp_path / "child.yaml"
    child.write_text("extends: parent.yaml\nname: n\n\ndata: {train: [{path: rows.jsonl}]}\n")
    assert explained(capsys, str(child), "data.train.0.path")[0].endswith(f"  {child}:4")
    assert explained(capsys, str(child), "data.train.0.repeat")[0] == "data.train.0.repeat  1  default"
    assert explained(capsys, str(child), "data.split.eval_rows")[0].endswith(f"  {tmp_path}/parent.yaml:8")
    whole = ["--set", "train={max_steps: 7}"]
    assert (
        explained(capsys, str(child), "train.max_steps", *whole)[0] == "train.max_steps  7  --set train={max_steps: 7}"
    )
    assert explained(capsys, str(child), "train.learning_rate", *whole)[0] == "train.learning_rate  0.0002  default"


def test_the_whole_recipe_is_the_one_that_train_resolves(capsys):
    """Every value of the resolved recipe, once, as the bundle's recipe.yaml has it; of the text those that are there."""
    for file in (METAR, CHAIN, MIXTURE, "recipes/mining/pack_npu.yaml"):
        assert main(["explain", file, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)["values"]
        rebuilt: dict = {}
        for one in told:
            place = rebuilt
            *sections, last = one["key"].split(".")
            for word in sections:
                place = place.setdefault(word, {})
            place[last] = one["value"]
        assert listed(rebuilt) == resolved(load_recipe(Path(file)))
        assert {one["from"]["kind"] for one in told} == {"file", "default"}
        assert all(
            one["meaning"] for one in told if one["from"]["kind"] == "default" and one["key"].startswith("train.")
        )
    lines = explained(capsys, METAR)
    assert lines[0].split() == ["name", "metar_decode", f"{METAR}:{line_of(METAR, 'name: metar_decode')}"]
    assert lines[-1].endswith(f"keys without a value are left out; finetune explain {METAR} SECTION lists them)")


def listed(value):
    """Mappings whose keys count from 0 as lists."""
    if not isinstance(value, dict):
        return value
    inner = {key: listed(one) for key, one in value.items()}
    return list(inner.values()) if inner and all(key.isdigit() for key in inner) else inner


def test_every_line_that_is_named_says_the_key():
    """Of all recipes that ship: the file and line of a value hold the last word of a key that leads to it, or the value."""
    files = [file for file in sorted(Path("recipes").rglob("*.yaml")) if "\nname:" in file.read_text(encoding="utf-8")]
    assert len(files) > 60
    count = 0
    for file in files:
        for value in values_of(load_traced(file), ()):
            if value.source.kind != "file":
                continue
            line = Path(value.source.file).read_text(encoding="utf-8").splitlines()[value.source.line - 1]
            assert any(word in line for word in value.key if not word.isdigit()) or str(value.value) in line, value
            count += 1
    assert count > 1000


def test_json_says_all_of_a_value(capsys):
    assert main(["explain", METAR, "seed", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    line = line_of(METAR, "seed")
    assert told == {
        "recipe": METAR, "key": "seed", "values": [{
            "key": "seed", "value": 17, "type": "a whole number from 0", "default": 0,
            "from": {"kind": "file", "file": METAR, "line": line, "flag": None, "part": None, "text": f"{METAR}:{line}"},
            "meaning": "LoRA's initial weights, order of the rows, split, dropout",
        }],
    }  # fmt: skip
