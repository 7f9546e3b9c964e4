"""`finetune smoke`: its steps on the tiny recipe, what it makes of a recipe, and that each of its proofs can say no."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from finetune.cli import main
from finetune.data.few import few
from finetune.data.prepare import prepare
from finetune.errors import GateError, RecipeError
from finetune.recipefile import load_recipe
from finetune.smoke import checks
from finetune.smoke.small import Tiny, small_recipe
from finetune.stages.sft import Sft
from tests.conftest import ROOT, write_tiny_recipe
from tests.families.configs import FAMILIES
from tests.test_shipped import RECIPES, id_of

STEPS = ("tiny base", "data", "base", "training", "resume", "scores", "export", "reload", "verify", "packing")
TINY = Tiny(Path("/base"), Path("/teacher"), "cpu")


def published(folder: Path, family: str = "qwen3") -> Path:
    """A folder with nothing but a published model's config.json."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(FAMILIES[family][1]), encoding="utf-8")
    return folder


def test_steps_of_a_smoke_and_what_it_leaves(tiny_base, tiny_data, tmp_path, capsys):
    """All ok, told in lines and in JSON. The tiny base has the tensors of the real one, tied as it."""
    recipe = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    told, folder = tmp_path / "told.json", tmp_path / "smoke"
    assert main(["smoke", str(recipe), "--json", str(told), "--output", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(told.read_text())
    assert report["passed"] and [step["name"] for step in report["steps"]] == list(STEPS)
    assert {step["status"] for step in report["steps"]} == {"ok"}
    assert [line.split("  ")[0] for line in lines[: len(STEPS)]] == ["ok"] * len(STEPS)
    assert lines[-2].startswith("smoke tiny: passed in")
    whole, run = folder / "whole", folder / "run"
    assert (whole / checks.ADAPTER).read_bytes() == (run / checks.ADAPTER).read_bytes()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3] and "resuming after step 1" in (folder / "run.log").read_text()
    before, after = (load_file(place / "model.safetensors") for place in (tiny_base, folder / "base"))
    assert (
        before.keys() == after.keys()
        and before["model.embed_tokens.weight"].shape == after["model.embed_tokens.weight"].shape
    )
    assert (run / "bundle/MANIFEST.json").is_file()


def test_a_run_that_is_not_the_same_twice_ends_with_exit_code_3(tiny_base, tiny_data, tmp_path, capsys, monkeypatch):
    """A loss that depends on how often it was called since the process began is no function of (recipe, step)."""
    plain, calls = Sft.loss, []

    def drifting(self, model, batch):
        calls.append(1)
        result = plain(self, model, batch)
        return type(result)(result.value * (1 + 0.1 * len(calls)), result.sums)

    monkeypatch.setattr(Sft, "loss", drifting)
    recipe = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    assert main(["smoke", str(recipe), "--output", str(tmp_path / "smoke")]) == 3
    told = capsys.readouterr()
    assert "resumed after step 1, the adapter . differs by up to" in told.err
    assert "failed    resume" in told.out and "kept: " in told.out


def test_adapters_that_differ_are_told(tmp_path):
    for place, value in (("run", 1.0), ("whole", 1.5)):
        (tmp_path / place / "adapter").mkdir(parents=True)
        save_file({"a": torch.full((2,), value)}, tmp_path / place / checks.ADAPTER)
    with pytest.raises(GateError, match=r"the adapter \. differs by up to 5\.00e-01"):
        checks.same_adapters(tmp_path / "run", tmp_path / "whole", exact=False)


def test_a_bundle_with_a_weight_too_few_does_not_load_whole(finished_run, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(finished_run[1].bundle, bundle)
    weights = load_file(bundle / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, bundle / "model.safetensors", {"format": "pt"})
    with pytest.raises(GateError, match=r"does not load whole: missing: model\.norm\.weight"):
        checks.reload(bundle, trust_remote_code=False)


def test_a_bundle_with_another_weight_is_not_the_adapter(finished_run, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(finished_run[1].bundle, bundle)
    weights = load_file(bundle / "model.safetensors")
    weights["model.layers.0.self_attn.v_proj.weight"] *= 1.5
    save_file(weights, bundle / "model.safetensors", {"format": "pt"})
    with pytest.raises(GateError, match="logits of the adapter on its base and of the bundle differ"):
        checks.reload(bundle, trust_remote_code=False)


@pytest.mark.parametrize("file", RECIPES, ids=id_of)
def test_every_recipe_becomes_a_small_one(file):
    """It is valid, keeps stage, data and settings, and every stage writes below the one folder."""
    recipe = load_recipe(file)
    small = small_recipe(recipe, TINY, Path("/smoke")).recipe
    pairs = [(recipe, small), *zip(recipe.stages, small.stages, strict=True),
             *zip(recipe.mixture, small.mixture, strict=True)]  # fmt: skip
    for before, after in pairs:
        assert after.output_dir.is_relative_to("/smoke/run") and after.model.name_or_path == "/base"
        assert (after.train.max_steps, after.train.save_steps, after.model.gguf_file) == (3, 1, None)
        assert (after.stage, after.data.train, after.data.split) == (before.stage, before.data.train, before.data.split)
        of_a_device = before.train.optim == "adamw_torch_npu_fused"  # plain AdamW elsewhere
        assert after.train.optim == ("adamw_torch" if of_a_device else before.train.optim)
        assert after.train.learning_rate == before.train.learning_rate
    assert [part.name for part in small.stages] == [part.name for part in recipe.stages]


def test_what_is_left_out_is_said(tiny_recipe):
    """Keys that change what is tested, with what they were; those that only make it short are not worth a word."""
    recipe = tiny_recipe(
        "train.optim=adamw_torch_fused", "lora.r=64", "train.torch_compile=true", "report_to=[]",
        "lora.layers_to_transform=[5, 6]", "lora.target_modules=[q_proj]", "export.targets=[vllm]",
        "model.adapter_name_or_path=/some/adapter",
    )  # fmt: skip
    small = small_recipe(recipe, TINY, Path("/smoke"))
    assert small.recipe.lora.r == 8
    assert sorted(small.notes) == [
        "export.targets: vllm left out: its files are made of the real model",
        "lora.layers_to_transform: [5, 6] left out: the tiny base has other layers",
        "model.adapter_name_or_path: /some/adapter left out: it is not of the tiny base's shape",
        "train.torch_compile: True left out: compiling takes longer than the run",
    ]


@pytest.mark.parametrize("key, given, small", [
    ("lora.rank_pattern", {"layers.20.self_attn.q_proj": 4, "up_proj": 2}, {"up_proj": 2}),
    ("lora.alpha_pattern", {r"layers\.(1[0-9]|2)\..*": 4}, None),
    ("lora.exclude_modules", ["model.layers.23.mlp.down_proj", "o_proj"], ["o_proj"]),
    ("lora.target_modules", ["model.layers.9.self_attn.q_proj", "model.layers.8.self_attn.q_proj", "fc1"], ("q_proj", "fc1")),
    ("lora.target_modules", r".*layers\.[0-9]\..*proj", "all-linear"),
    ("lora.target_parameters", ["layers.3.mlp.experts.gate_up_proj"], ["experts.gate_up_proj"]),
    ("train.lr_groups", {r"layers\.0\.": 1e-4, "lora_B": 1e-3}, {"lora_B": 1e-3}),
], ids=str)  # fmt: skip
def test_layers_by_number_are_others_in_the_tiny_base(tiny_recipe, key, given, small):
    """What names layer 20 matches nothing in a model of two: it is left out or widened, and that is said."""
    recipe = tiny_recipe(f"{key}={json.dumps(given)}")
    made = small_recipe(recipe, TINY, Path("/smoke"))
    section, _, last = key.partition(".")
    assert getattr(getattr(made.recipe, section), last, None) == small
    assert [note.partition(":")[0] for note in made.notes if "other layers" in note] == [key]


def test_few_rows(tiny_recipe, tmp_path):
    """The first four of 31 and two held out; of labels every kind; a long text is cut, and long rows come last."""
    recipe = tiny_recipe()
    data = prepare(recipe.data, recipe.seed)
    cut = few(data, 4)
    assert [sample.where for sample in cut.train] == [sample.where for sample in data.train[:4]]
    assert len(cut.evaluate) == 2 and cut.notes[-1].startswith(f"cut to 4 of {len(data.train)} samples")
    texts = ["x" * 9000, *("y" * 10 for _ in range(5))]
    (tmp_path / "t.jsonl").write_text(
        "".join(json.dumps({"text": text + str(i)}) + "\n" for i, text in enumerate(texts))
    )
    section = recipe.data.model_copy(
        update={"template": None, "format": "text", "train": (type(recipe.data.train[0])(path=str(tmp_path / "t.jsonl")),),
                "split": recipe.data.split.model_copy(update={"by": None, "eval_rows": 1})}
    )  # fmt: skip
    documents = few(prepare(section, 0, "cpt"), 8).train
    assert max(len(sample.messages[0]["content"]) for sample in documents) <= 4000


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ((), "--output: {folder} already exists"),
        (("--set", "device=cuda"), "device: 'cuda' is not to be had on this machine; add --set device=cpu"),
        (("--set", "model.name_or_path=./no-such"), "no such folder"),
    ],
)
def test_mistakes(changes, problem, tiny_base, tiny_data, tmp_path, capsys):
    folder = tmp_path / "smoke"
    if not changes:
        folder.mkdir()
        (folder / "mine").touch()
    recipe = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    assert main(["smoke", str(recipe), "--output", str(folder), *changes]) == 2
    assert problem.format(folder=folder) in capsys.readouterr().err
    assert not changes or not (folder / "run").exists()


def test_a_base_that_is_no_model(tiny_base, tiny_data, tmp_path):
    base = published(tmp_path / "base")
    (base / "config.json").write_text('{"model_type": "no_such_model"}')
    recipe = load_recipe(write_tiny_recipe(tmp_path, base, tiny_data))
    from finetune.model.tiny_base import write_tiny_base

    with pytest.raises(RecipeError, match=r"model\.name_or_path: no configuration from"):
        write_tiny_base(recipe.model, tmp_path / "tiny")


def test_packing_is_asked_and_is_an_error_only_where_the_recipe_packs(tiny_data, tmp_path, capsys):
    """gpt-oss lets packed documents see each other: `no`, and exit code 2 with data.packing."""
    base = published(tmp_path / "base", "gpt_oss")
    recipe = write_tiny_recipe(tmp_path, base, tiny_data)
    packed = ("--set", "data.packing=true")
    assert main(["smoke", str(recipe), *packed, "--output", str(tmp_path / "packed")]) == 2
    told = capsys.readouterr()
    assert "failed    base" in told.out and "lets packed documents see each other" in told.err


SLOW = (
    "metar_mixture",
    "mine_assistant",
    "metar_grpo",
    "metar_distill",
    "dose_reward",
    "batch_deviation_kto",
    "cashflow_tools",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_chains_mixtures_and_every_kind_of_stage(name, tmp_path, capsys):
    """On a published Qwen2's config.json alone: whatever the tokenizer, every step is ok but a judge's golden answers."""
    file = next(file for file in RECIPES if file.stem == name)
    base = published(tmp_path / "base", "qwen2")
    told = tmp_path / "told.json"
    swap = ("--set", f"model.name_or_path={base}", "--set", "model.gguf_file=null")
    assert main(["smoke", str(file), *swap, "--json", str(told)]) == 0
    status = {step["name"]: step["status"] for step in json.loads(told.read_text())["steps"]}
    expected = dict.fromkeys(STEPS, "ok") | ({"verify": "left out"} if name == "dose_reward" else {})
    assert status == expected


@pytest.mark.slow
def test_a_gguf_base_gives_its_configuration_and_tokenizer(tmp_path):
    """SmolLM2: tied embeddings, 3 heads to a group (now 2), 49,152 ids, its own chat template."""
    told, folder = tmp_path / "told.json", tmp_path / "smoke"
    recipe = ROOT / "recipes/meteorology/metar_decode.yaml"
    assert main(["smoke", str(recipe), "--json", str(told), "--output", str(folder)]) == 0
    config = json.loads((folder / "base/config.json").read_text())
    assert (config["tie_word_embeddings"], config["vocab_size"], config["num_hidden_layers"]) == (True, 49152, 2)
    assert yaml.safe_load((folder / "run/bundle/recipe.yaml").read_text())["data"]["max_length"] == 384
