"""Training on quantised bases: what is computed, gone on with, compared with, merged (T37), in one process and two."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from finetune.cli import main
from finetune.errors import RecipeError
from finetune.model.quantization import METHODS
from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import ROOT, write_tiny_recipe
from tests.equivalence.test_resume import assert_same_bits, run_until, stir

SHORT = ("train.max_steps=3", "evaluate.rows=2")


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        ("nf4", "float32"),
        *(
            pytest.param(method, dtype, marks=pytest.mark.slow)
            for method in METHODS
            for dtype in ("float32", "bfloat16")
            if (method, dtype) != ("nf4", "float32")
        ),
    ],
)
def test_merged_into_what_was_trained_on(tiny_recipe, tiny_base, method, dtype, capsys):
    """T37, both targets. The manifest says what the base was; de-quantised, the merge is the evaluated model.

    In float32 to the order of additions (int8 rounds activations, too, which the merged model does not); into the
    original base it is another model, by far more than that, and the difference is printed and no gate.
    """
    recipe = tiny_recipe(*SHORT, f"model.quantization={method}", f"model.dtype={dtype}")
    result = run(recipe)
    told, proof = result.manifest["base"]["quantization"], result.manifest["merge_proof"]
    assert (told["method"], told["stored"], result.manifest["merge"]["target"]) == (method, False, "dequantised")
    limit = 0.95 if method == "int8" else 0.98  # int8 rounds activations too
    assert proof["greedy_agreement"] >= 0.98 and proof["limits"]["greedy_agreement"] == limit
    exact = dtype == "float32" and method != "int8"
    assert proof["max_logit_difference"] < (1e-6 if exact else 2e-2)
    assert proof["evaluated"]["max_logprob_difference"] < (1e-5 if dtype == "float32" else 0.02)
    other = recipe.output_dir.parent / "original"
    assert main(["export", str(recipe.output_dir), "--output", str(other), "--merge-into", "original"]) == 0
    said = capsys.readouterr().out
    assert f"merged into the original base, NOT the {method} one" in said and "merged against adapter: largest" in said
    manifest = json.loads((other / "MANIFEST.json").read_text())
    assert manifest["merge"]["target"] == "original" and manifest["merge_proof"]["limits"] is None
    assert manifest["merge_proof"]["mean_kl"] > (100 if exact else 1) * proof["mean_kl"]
    name = "model.layers.0.mlp.up_proj.weight"
    merged = [load_file(folder / "model.safetensors")[name].float() for folder in (result.bundle, other)]
    plain = load_file(tiny_base / "model.safetensors")[name]
    tensors = load_file(recipe.output_dir / "adapter/adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.{name.removesuffix('weight')}lora_{half}.weight"] for half in "AB")
    atol = 1e-6 if dtype == "float32" else float(plain.abs().max()) * 2**-8
    assert torch.allclose(merged[1], plain + 2 * b @ a, atol=atol)
    assert not torch.allclose(merged[0], plain + 2 * b @ a, atol=atol)


@pytest.mark.parametrize("method", ["nf4", *(pytest.param(m, marks=pytest.mark.slow) for m in METHODS if m != "nf4")])
def test_resumed_bit_for_bit(tiny_recipe, tmp_path, tiny_base, tiny_data, monkeypatch, method):
    """T1 on a quantised base, with looks at the held-out loss between: what evaluation does to the layers is undone."""
    settings = (
        "train.max_steps=6",
        "train.save_steps=2",
        "train.eval_steps=2",
        "evaluate.rows=2",
        f"model.quantization={method}",
    )
    (tmp_path / "whole").mkdir()
    whole = load_recipe(write_tiny_recipe(tmp_path / "whole", tiny_base, tiny_data), settings)
    run(whole)
    recipe = tiny_recipe(*settings)
    run_until(recipe, 7, monkeypatch)
    stir()
    run(recipe, resume="auto")
    assert_same_bits(recipe.output_dir, whole.output_dir)


def test_another_quantisation_is_another_run(tiny_recipe, monkeypatch):
    recipe = tiny_recipe(*SHORT, "train.save_steps=1", "model.quantization=nf4")
    run_until(recipe, 3, monkeypatch)
    with pytest.raises(RecipeError, match=r"model.quantization: the checkpoint was made with \{'method': 'nf4'"):
        run(tiny_recipe(*SHORT, "train.save_steps=1", "model.quantization=int8"), resume="auto")


def test_whole_layers_are_refused(tiny_recipe):
    with pytest.raises(RecipeError, match=r"lora.modules_to_save: model.layers.0.mlp.up_proj is quantised"):
        run(tiny_recipe(*SHORT, "model.quantization=nf4", "lora.modules_to_save=[up_proj]"))


def test_loftq(tiny_recipe, tiny_base):
    """LoftQ's start is nearer to the original than nf4 is: |W - Q - s B A| = what is left of the singular values, s = 2.

    Eckart and Young: the squared distance is the sum of all squared singular values of W - Q but the first r. With the
    adapter off the base is nf4's, and the adapter that is saved is plain LoRA.
    """
    from transformers import AutoModelForCausalLM

    from finetune.export.dequantise import quantised_and_back
    from finetune.model.adapter import add_adapter
    from finetune.model.quantise import loading_options, start_with_loftq

    recipe = tiny_recipe(*SHORT, "model.quantization=nf4", "lora.init_lora_weights=loftq", "train.learning_rate=1e-9")
    model = AutoModelForCausalLM.from_pretrained(
        tiny_base, dtype=torch.float32, **loading_options("nf4", False, torch.float32, "cpu")
    )
    adapted, _ = add_adapter(model, recipe.lora.model_copy(update={"init_lora_weights": True}), 0)
    start_with_loftq(adapted, tiny_base)
    name = "model.layers.1.self_attn.v_proj"
    layer = adapted.get_base_model().get_submodule(name)
    weight = load_file(tiny_base / "model.safetensors")[f"{name}.weight"]
    lost = weight - quantised_and_back(weight, "nf4")
    left = (lost - 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach()
    values = torch.linalg.svdvals(lost)
    assert float(left.norm() ** 2) == pytest.approx(float((values[4:] ** 2).sum()), rel=1e-4)
    assert left.norm() < 0.95 * lost.norm()
    result = run(recipe)
    saved = json.loads((recipe.output_dir / "adapter/adapter_config.json").read_text())
    assert saved["init_lora_weights"] is True and result.manifest["merge"]["target"] == "dequantised"
    tensors = load_file(recipe.output_dir / "adapter/adapter_model.safetensors")
    assert torch.allclose(tensors[f"base_model.model.{name}.lora_B.weight"], layer.lora_B["default"].weight, atol=1e-6)


def test_the_adapter_is_served_on_the_base_it_was_trained_on(tiny_recipe, capsys, tmp_path):
    """Refused by engines that would take another base; vLLM and run.py get the quantisation into their commands."""
    targets = "export.targets=[{engine: sglang, form: adapter}, {engine: llama.cpp, form: adapter}]"
    for method, engines in (("nf4", ("sglang", "llama.cpp")), ("int8", ("sglang", "llama.cpp"))):
        with pytest.raises(RecipeError) as refused:
            run(tiny_recipe(*SHORT, f"model.quantization={method}", targets))
        for engine in engines:
            assert f"{engine} (adapter): the adapter was trained on its base in {method}" in str(refused.value)
    with pytest.raises(
        RecipeError, match=r"vllm \(adapter\): it can't have the base in int8, .*vLLM quantises only to nf4"
    ):
        run(tiny_recipe(*SHORT, "model.quantization=int8", "export.targets=[{engine: vllm, form: adapter}]"))
    targets = "export.targets=[vllm, {engine: vllm, form: adapter}, {engine: transformers, form: adapter}]"
    bundle = run(tiny_recipe(*SHORT, "model.quantization=nf4", targets)).bundle
    assert "vllm (adapter): the base has to be in nf4" in capsys.readouterr().out
    said = (bundle / "serve/vllm-adapter/README.md").read_text()
    assert "--quantization bitsandbytes" in said and "trained on this base in nf4" in said
    assert "--quantization" not in (bundle / "serve/vllm/README.md").read_text()
    script = (bundle / "serve/transformers-adapter/run.py").read_text()
    compile(script, "run.py", "exec")
    assert 'bnb_4bit_quant_type="nf4"' in script and "dtype=torch.float32, quantization_config=base" in script
    namespace: dict = {}
    lines = script.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("tokenizer = "))
    last = next(index for index, line in enumerate(lines) if line.startswith("chat = "))
    loading = "\n".join(lines[:first] + lines[first + 1 : last])
    exec(loading.replace('"adapter"', repr(str(bundle / "adapter"))), namespace)  # its own lines, up to the question
    layer = namespace["model"].base_model.model.model.layers[0].mlp.up_proj.base_layer
    assert layer.weight.quant_state.quant_type == "nf4"


def pairs(folder, tiny_base, tiny_data, **settings):
    """A DPO recipe on the tiny rows: the right answer before a wrong one."""
    rows = [json.loads(line) for line in (tiny_data / "larger.jsonl").read_text().splitlines()]
    made = [
        {"prompt": f"{row['a']} {row['b']}?", "chosen": f"larger {max(row['a'], row['b'])}", "rejected": "larger none"}
        for row in rows
    ]
    file = folder / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, made)) + "\n")
    overrides = ["stage=dpo", "data.template=null", "data.format=preference", f"data.train={file}", "evaluate.rows=2",
                 "data.split={eval_rows: 6}", "data.screen.exact_duplicates=drop", "train.max_steps=1",
                 "data.screen.train_eval_overlap=report",
                 "train.save_steps=0"]  # fmt: skip
    return load_recipe(
        write_tiny_recipe(folder, tiny_base, tiny_data),
        [*overrides, *(f"{key}={value}" for key, value in settings.items())],
    )


@pytest.mark.parametrize("init", ["true", "loftq"])
def test_the_reference_is_the_policy_before_training(tmp_path, tiny_base, tiny_data, init):
    """DPO's first loss is log 2 for every pair: policy and reference are equal, also where LoftQ's adapter is not nothing."""
    recipe = pairs(tmp_path, tiny_base, tiny_data, **{"model.quantization": "nf4", "lora.init_lora_weights": init})
    run(recipe)
    line = json.loads((recipe.output_dir / "metrics.jsonl").read_text().splitlines()[0])
    assert line["loss"] == pytest.approx(0.6931471805599453, abs=1e-6)


def test_a_chain_on_a_quantised_base(tiny_base, tiny_data, tmp_path, capsys):
    """continue_from merged: the first stage goes into the de-quantised base, and the second quantises that folder again.

    So the second stage's base is nf4 of (nf4 of W + B A), which the bundle ships as it was quantised from, and merges
    into de-quantised.
    """
    from finetune.export.dequantise import quantised_and_back

    file = write_tiny_recipe(tmp_path, tiny_base, tiny_data)
    with file.open("a") as recipe_file:
        recipe_file.write("stages: [{name: one, stage: sft}, {name: two, stage: sft, continue_from: merged}]\n")
    recipe = load_recipe(file, [*SHORT, "model.quantization=nf4"])
    result = run(recipe)
    said = capsys.readouterr().out
    assert "merged into the nf4 base de-quantised, which the next stage quantises again as it loads it" in said
    name = "model.layers.0.mlp.up_proj.weight"

    def delta(folder):
        tensors = load_file(folder / "adapter/adapter_model.safetensors")
        a, b = (tensors[f"base_model.model.{name.removesuffix('weight')}lora_{half}.weight"] for half in "AB")
        return 2 * b @ a

    plain = load_file(tiny_base / "model.safetensors")[name]
    between = quantised_and_back(plain, "nf4") + delta(recipe.stages[0].output_dir)
    assert torch.allclose(load_file(recipe.output_dir / "base/model.safetensors")[name], between, atol=1e-6)
    last = quantised_and_back(load_file(recipe.output_dir / "base/model.safetensors")[name], "nf4")
    assert torch.allclose(
        load_file(result.bundle / "model.safetensors")[name], last + delta(recipe.output_dir), atol=1e-6
    )
    assert (
        result.manifest["merge"]["target"] == "dequantised" and result.manifest["merge_proof"]["greedy_agreement"] == 1
    )
    assert (result.bundle / "base/model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nf4", pytest.param("int8_weight_only", marks=pytest.mark.long)])  # a package each
def test_two_processes_are_one_run(tiny_base, tiny_data, tmp_path, method):
    """DDP: every process holds the whole quantised base; the losses are those of one process."""
    losses = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        file = write_tiny_recipe(folder, tiny_base, tiny_data)
        settings = (*SHORT, f"model.quantization={method}", "train.micro_batch_size=2")
        launch = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
            str(ROOT / "scripts/train.py"), str(file), *(word for item in settings for word in ("--set", item)),
        ]  # fmt: skip
        done = subprocess.run(
            launch, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == 0, done.stderr[-3000:]
        lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
        losses[processes] = [line["loss"] for line in lines if "loss" in line]
    assert losses[2] == pytest.approx(losses[1], abs=1e-5) and len(losses[1]) == 3


def test_a_reward_model_on_a_quantised_base(tmp_path, tiny_base, tiny_data):
    """The head of zeros is trained in float32 on the nf4 body, and the merged folder gives the rewards that were scored."""
    recipe = pairs(tmp_path, tiny_base, tiny_data, **{"model.quantization": "nf4", "stage": "reward"})
    proof = run(recipe).manifest["merge_proof"]
    assert proof["max_reward_difference"] < 1e-5 and proof["evaluated"]["max_reward_difference"] < 1e-5


def test_new_tokens_on_a_base_in_four_bits(tiny_recipe):
    """The vocabulary is not quantised: its new rows are trained, and merged into the de-quantised base with the rest."""
    recipe = tiny_recipe(*SHORT, "model.quantization=nf4", "model.add_tokens=[larger]")
    bundle = run(recipe).bundle
    manifest = json.loads((bundle / "MANIFEST.json").read_text())
    assert manifest["merge_proof"]["max_logit_difference"] < 1e-5 and manifest["merge_proof"]["greedy_agreement"] == 1
    assert manifest["merge"]["vocabulary"] == 259 and manifest["base"]["quantization"]["method"] == "nf4"
