"""`finetune export`: the same bundle again from disk, another dtype, an adapter made elsewhere; what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import finetune.export.merge as merging
from finetune.cli import main
from finetune.run import run
from tests.conftest import write_tiny_recipe


@pytest.fixture
def finished(finished_run, tmp_path):
    """A copy of the finished run's folder, moved elsewhere."""
    return shutil.copytree(finished_run[0].output_dir, tmp_path / "moved")


def test_a_run_exports_again_to_the_same_bytes(finished, tmp_path, capsys):
    """From what lies on disk, on another day, in another place: every file but the manifest's date is the same."""
    assert main(["export", str(finished), "--output", str(tmp_path / "again")]) == 0
    out = capsys.readouterr().out
    assert "merged = adapter: largest logit difference" in out and out.endswith(f"bundle: {tmp_path / 'again'}\n")
    one, two = (
        json.loads((folder / "MANIFEST.json").read_text()) for folder in (finished / "bundle", tmp_path / "again")
    )
    dated = {"README.md", "README.zh-CN.md", "sbom.cdx.json"}
    assert {k: v for k, v in one["files"].items() if k not in dated} == {
        k: v for k, v in two["files"].items() if k not in dated
    }
    for key in ("base", "data", "training", "scores", "merge_proof"):
        assert one[key] == two[key]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".again.")]


def test_what_is_there_is_not_overwritten_in_silence(finished, tmp_path, capsys):
    assert main(["export", str(finished)]) == 2
    assert f"{finished / 'bundle'} already exists; give another --output, or --overwrite it" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    assert main(["export", str(finished), "--output", str(tmp_path / "mine"), "--overwrite"]) == 2
    assert "is not a bundle (no MANIFEST.json)" in capsys.readouterr().err
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"
    assert main(["export", str(finished), "--overwrite", "--set", "export.dtype=bfloat16"]) == 0
    merged = load_file(finished / "bundle/model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    assert json.loads((finished / "bundle/MANIFEST.json").read_text())["merge_proof"]["dtype"] == "bfloat16"


def test_a_killed_export_goes_on_with_its_shards(finished, tmp_path, monkeypatch, capsys):
    """The shards that were finished are not made again, what else lies in the draft goes, and the bytes are the same."""
    arguments = ["export", str(finished), "--set", "export.max_shard_size=100KB", "--output"]
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    plain, made = merging._write, []

    def killed(shard, *rest):
        made.append(shard.file)
        if len(made) == 3:
            raise KeyboardInterrupt
        return plain(shard, *rest)

    monkeypatch.setattr(merging, "_write", killed)
    assert main([*arguments, str(tmp_path / "cut")]) == 130
    assert not (tmp_path / "cut").exists()
    (tmp_path / ".cut.partial/left.gguf").write_text("of an earlier export")
    assert main([*arguments, str(tmp_path / "cut")]) == 0
    assert len(made) == len(set(made)) + 1 > 4
    files = {file.name for file in (tmp_path / "cut").iterdir()}
    assert files == {file.name for file in (tmp_path / "whole").iterdir()} >= {"model.safetensors.index.json"}
    for file in (tmp_path / "whole").glob("model*"):
        assert file.read_bytes() == (tmp_path / "cut" / file.name).read_bytes()


def test_every_wrong_setting_is_named(finished, tmp_path, capsys):
    """Only the export can be set now; the rest is as it was trained. All at once, nothing written."""
    wrong = ["train.learning_rate=1", "export.dtyp=float32", "export.targets=[vllmm]"]
    arguments = [word for setting in wrong for word in ("--set", setting)]
    assert main(["export", str(finished), "--output", str(tmp_path / "no"), *arguments]) == 2
    said = capsys.readouterr().err
    assert "--set train.learning_rate=1: only keys of export: can be set here" in said
    assert "export.dtyp: unknown key; did you mean 'dtype'?" in said
    assert "export.targets.0.engine" in said and "'vllmm'" in said
    assert not (tmp_path / "no").exists()
    (tmp_path / "half").mkdir()
    (tmp_path / "half/adapter_config.json").write_text('{"base_model_name_or_path": ')
    (tmp_path / "away").mkdir()
    (tmp_path / "away/adapter_config.json").write_text('{"base_model_name_or_path": "/no/such/base"}')
    places = {
        "nowhere": "no such folder",
        "": "neither a finished run",
        "half": "adapter_config.json",
        "away": "/no/such/base",
    }
    for name, reason in places.items():
        place = tmp_path / name
        assert main(["export", str(place), "--output", str(tmp_path / "no")]) == 2
        assert reason in capsys.readouterr().err


def test_an_adapter_that_is_not_the_evaluated_one_is_refused(finished, tmp_path, capsys):
    """The scores belong to the model that was in memory: another adapter in its place stops the export (exit code 3)."""
    file = finished / "adapter/adapter_model.safetensors"
    tensors = load_file(file)
    save_file(
        {name: -tensor if "lora_B" in name else tensor for name, tensor in tensors.items()},
        file,
        metadata={"format": "pt"},
    )
    assert main(["export", str(finished), "--output", str(tmp_path / "no")]) == 3
    assert "the adapter on disk is not the model that was evaluated" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if "no" in path.name] == []


def test_an_adapter_made_elsewhere(tiny_base, tmp_path, capsys):
    """A folder that peft wrote: merged as peft merges it, proved on the built-in prompts or on one's own."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    config = LoraConfig(r=6, lora_alpha=3, target_modules=["q_proj", "down_proj"], use_rslora=True)
    adapted = get_peft_model(model, config, adapter_name="default")
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    assert main(["export", str(tmp_path / "adapter")]) == 2
    assert "--output" in capsys.readouterr().err
    (tmp_path / "prompts.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "9 1?"}]}\n{"messages": [{"role": "user"}]}\n'
    )
    broken = ["--output", str(tmp_path / "bundle"), "--prompts", str(tmp_path / "prompts.jsonl")]
    assert main(["export", str(tmp_path / "adapter"), *broken]) == 2
    assert "prompts.jsonl:2" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "adapter"), "--output", str(tmp_path / "bundle")]) == 0
    manifest = json.loads((tmp_path / "bundle/MANIFEST.json").read_text())
    assert (manifest["scores"], manifest["data"], manifest["merge_proof"]["rows"]) == (None, None, 8)
    expected = adapted.merge_and_unload().state_dict()
    merged = load_file(tmp_path / "bundle/model.safetensors")
    changed = "model.layers.1.mlp.down_proj.weight"
    assert float((merged[changed] - load_file(tiny_base / "model.safetensors")[changed]).abs().max()) > 1e-3
    for name, tensor in merged.items():
        assert float((tensor - expected[name]).abs().max()) < 1e-6, name


@pytest.mark.parametrize(
    "settings",
    [
        ["lora.init_lora_weights=pissa"],
        ["lora.use_dora=true"],
        ["lora.use_rslora=true", "lora.rank_pattern={'0.self_attn.q_proj': 2}"],
        ["lora.target_modules=[q_proj, embed_tokens]", "lora.ensure_weight_tying=true"],
        ["lora.modules_to_save=[embed_tokens, norm]"],
    ],
    ids=["pissa", "dora", "rslora with ranks", "tied ends", "whole modules"],
)
def test_every_kind_of_adapter_ends_as_the_model_that_was_evaluated(tiny_recipe, settings):
    """T34, T36: the merged weights on disk, the canonical adapter and the scored model in memory agree in float32."""
    result = run(tiny_recipe("train.max_steps=4", "evaluate.rows=2", *settings))
    proof = result.manifest["merge_proof"]
    assert proof["max_logit_difference"] < 1e-3 and proof["greedy_agreement"] == 1.0
    assert proof["evaluated"]["max_logprob_difference"] < 1e-4


def test_check_knows_before_training_what_cannot_be_served(tiny_base, tiny_data, tmp_path, capsys):
    """Every target's refusal at once, each with its fix, and no model is loaded; a recipe that is served is right."""
    recipe = str(write_tiny_recipe(tmp_path, tiny_base, tiny_data))
    targets = "export.targets=[{engine: vllm, form: adapter}, mindie, {engine: llama.cpp, types: [q8_1]}]"
    wrong = ["--set", "lora.use_dora=true", "--set", "export.dtype=float32", "--set", targets]
    assert main(["check", recipe, *wrong]) == 2
    said = capsys.readouterr().err
    assert "vllm (adapter): " in said and "(A9, refused)" in said and "form: merged" in said
    assert "mindie (merged): torch_dtype 'float32' must be float16 or bfloat16" in said
    assert "llama.cpp (merged): types: 'q8_1' is not one; did you mean 'q8_0'?" in said
    assert main(["check", recipe, "--set", "lora.use_dora=true", "--set", "export.targets=[vllm]"]) == 0
    assert capsys.readouterr().out.endswith("31 samples to train on, 9 held out\n")


def test_targets_get_their_files(finished, tmp_path):
    """serve/ of engines that read the folder: the command names model, dtype and rank; MANIFEST.json lists the files."""
    settings = "export.targets=[vllm, {engine: vllm, form: adapter}, sglang]"
    assert main(["export", str(finished), "--output", str(tmp_path / "served"), "--set", settings]) == 0
    manifest = json.loads((tmp_path / "served/MANIFEST.json").read_text())
    assert [(one["engine"], one["form"]) for one in manifest["serving"]] == [
        ("vllm", "merged"), ("vllm", "adapter"), ("sglang", "merged"),
    ]  # fmt: skip
    folders = ("vllm", "vllm-adapter", "sglang")
    assert {
        f"serve/{folder}/{file}" for folder in folders for file in ("README.md", "README.zh-CN.md", "compose.yaml")
    } <= set(manifest["files"])
    said = (tmp_path / "served/serve/vllm-adapter/README.md").read_text()
    assert "--max-lora-rank 8 " in said and "--lora-modules tiny=" in said and str(tmp_path) not in said


def test_an_adapter_of_a_4_bit_base(tiny_base, tmp_path, capsys):
    """T37: merged into the de-quantised base by default, at most 2 % greedy differences; the original is said aloud."""
    pytest.importorskip("bitsandbytes")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_base), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    export = ["export", str(tmp_path / "adapter"), "--base", str(tiny_base), "--output"]
    assert main([*export, str(tmp_path / "no"), "--merge-into", "dequantised"]) == 2
    assert "goes with --trained-on nf4" in capsys.readouterr().err
    proofs = {}
    for into in ("dequantised", "original"):
        chosen = ["--merge-into", into] if into == "original" else []
        assert main([*export, str(tmp_path / into), "--trained-on", "nf4", *chosen]) == 0
        manifest = json.loads((tmp_path / into / "MANIFEST.json").read_text())
        assert manifest["merge"]["target"] == into
        proofs[into] = manifest["merge_proof"]
    said = capsys.readouterr().out
    assert "merged into the original base, NOT the nf4 one" in said and "merged against adapter: " in said
    assert (
        proofs["dequantised"]["greedy_agreement"] >= 0.98
        and proofs["dequantised"]["limits"]["greedy_agreement"] == 0.98
    )
    assert proofs["original"]["limits"] is None
    assert proofs["original"]["mean_kl"] > 10 * proofs["dequantised"]["mean_kl"]


def test_several_adapters_on_one_base(finished, tiny_base, tmp_path, capsys):
    """They go along, canonical, and the command serves them all; another base's is refused by its manifest's hash."""
    other = shutil.copytree(finished / "bundle", tmp_path / "other")
    settings = ["--set", "export.targets=[{engine: vllm, form: adapter}]"]
    named = f"export.adapters={{second: {other / 'adapter'}}}"
    assert main(["export", str(finished), "--output", str(tmp_path / "two"), *settings, "--set", named]) == 0
    weights = "adapter_model.safetensors"
    assert (tmp_path / "two/adapters/second" / weights).read_bytes() == (other / "adapter" / weights).read_bytes()
    said = (tmp_path / "two/serve/vllm-adapter/README.md").read_text()
    assert "tiny=" in said and "/adapters/second" in said and "--max-loras 2" in said
    manifest = json.loads((other / "MANIFEST.json").read_text())
    manifest["base"]["sha256"] = {"model.safetensors": "0" * 64}
    (other / "MANIFEST.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    wrong = f"export.adapters={{second: {other / 'adapter'}, tiny: {tmp_path}}}"
    assert main(["export", str(finished), "--output", str(tmp_path / "no"), "--set", wrong]) == 2
    said = capsys.readouterr().err
    assert "export.adapters.second: " in said and "belongs to another base" in said
    assert "export.adapters.tiny: a name of its own is needed" in said and "not a PEFT adapter" in said
    assert not (tmp_path / "no").exists()
