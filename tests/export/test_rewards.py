"""The bundle of a reward model: loads the usual ways, gives the adapter's rewards, and says what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.cli import main
from finetune.errors import RecipeError
from finetune.inputs import load_data
from finetune.run import run
from tests.conftest import byte_tokenizer, tiny_llama
from tests.reward_runs import pair, reward_recipe

ROWS = [pair(7, 2), pair(4, 4), pair(1, 3)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Path]:
    """(base, run) of a base whose chat template ends with the eos, which is also its padding, and is not tied."""
    folder = tmp_path_factory.mktemp("judge")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("'<|im_end|>' + '\n'", "'<|im_end|>'")
    base = tiny_llama(len(tokenizer))
    base.config.tie_word_embeddings = False
    base.lm_head.weight = torch.nn.Parameter(base.lm_head.weight.detach().clone())
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    run(reward_recipe(folder, folder / "base", "export.targets=[vllm]"))
    return folder / "base", folder / "run"


def chats(row: dict) -> list[list[dict]]:
    ask = {"role": "user", "content": row["prompt"]}
    return [[ask, {"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")]


@torch.no_grad()
def rewards(model, tokenizer) -> torch.Tensor:
    """(conversations, aspects) of the usual forward, all in one padded batch."""
    conversations = [chat for row in ROWS for chat in chats(row)]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in conversations]
    return model.eval()(**tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")).logits


def test_merged_folder_and_adapter_give_the_same_rewards(finished):
    """Both through nothing but transformers and peft, whose forward finds the last token by the padding's id."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base, place = finished
    merged = AutoModelForSequenceClassification.from_pretrained(place / "bundle")
    assert list(merged.config.id2label.values()) == ["right", "form"] and merged.config.num_labels == 2
    tokenizer = AutoTokenizer.from_pretrained(place / "bundle")
    assert tokenizer.pad_token_id == merged.config.pad_token_id == 256  # not the eos that conversations end with
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2, pad_token_id=256)
    tuned = PeftModel.from_pretrained(plain, place / "bundle/adapter")
    assert AutoTokenizer.from_pretrained(place / "bundle/adapter").pad_token_id == 256
    ours, theirs = rewards(merged, tokenizer), rewards(tuned, tokenizer)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert float(ours.std()) > 0.1


def test_merged_weights_are_the_base_the_deltas_and_the_head(finished):
    """No output layer, though the base has one of its own; the score head is the adapter's, bit for bit."""
    base, place = finished
    merged, before = (load_file(folder / "model.safetensors") for folder in (place / "bundle", base))
    adapter = load_file(place / "adapter/adapter_model.safetensors")
    assert merged.keys() == before.keys() - {"lm_head.weight"} | {"score.weight"}
    assert torch.equal(merged["score.weight"], adapter["base_model.model.score.weight"])
    q = "model.layers.0.self_attn.q_proj"
    down, up = (adapter[f"base_model.model.{q}.lora_{side}.weight"] for side in "AB")
    torch.testing.assert_close(merged[f"{q}.weight"], before[f"{q}.weight"] + 2.0 * up @ down)  # lora_alpha / r


def test_manifest_card_and_serving_say_what_it_is(finished):
    bundle = finished[1] / "bundle"
    manifest = json.loads((bundle / "MANIFEST.json").read_text())
    proof = manifest["merge_proof"]
    assert manifest["rewards"] == proof["rewards"] == ["right", "form"]
    assert proof["rows"] == 8 and proof["max_reward_difference"] <= 1e-4  # 4 held-out pairs
    assert proof["limits"]["max_reward_difference"] == pytest.approx(1e-3 * max(1, proof["largest_reward"]))
    assert proof["evaluated"]["max_reward_difference"] <= 1e-4
    assert not {"golden.jsonl", "golden.json", "generation_config.json"} & {file.name for file in bundle.iterdir()}
    card = (bundle / "README.md").read_text()
    assert "A reward model: it writes no text" in card and "AutoModelForSequenceClassification" in card
    assert "Greedy" not in card and "AutoModelForCausalLM" not in card and "pipeline_tag: text-classification" in card
    assert "奖励模型：不生成文本" in (bundle / "README.zh-CN.md").read_text()
    serve = (bundle / "serve/vllm/README.md").read_text()
    assert "--runner pooling" in serve and "/classify" in serve and "finetune verify" not in serve


def test_export_from_disk_and_verify(finished, tmp_path, capsys):
    _, place = finished
    again = tmp_path / "again"
    assert main(["export", str(place), "--output", str(again), "--set", "export.dtype=bfloat16"]) == 0
    assert load_file(again / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    proof = json.loads((again / "MANIFEST.json").read_text())["merge_proof"]
    assert proof["dtype"] == "bfloat16" and 1e-4 < proof["max_reward_difference"] < 0.05
    capsys.readouterr()
    assert main(["verify", str(again)]) == 0
    said = capsys.readouterr().out
    assert "a reward model (right, form)" in said and "no golden samples: it gives no answers" in said
    assert main(["verify", "http://127.0.0.1:9", "--bundle", str(again)]) == 2
    assert "gives no answers, so it has no golden samples" in capsys.readouterr().err
    (again / "config.json").write_text("{}")
    assert main(["verify", str(again)]) == 3


def test_a_merge_that_is_not_the_adapter_stops_the_export(finished, tmp_path, capsys):
    """The adapter's head is turned round after the evaluation: the rewards are not those that were scored."""
    place = tmp_path / "run"
    shutil.copytree(finished[1], place, ignore=shutil.ignore_patterns("bundle", "checkpoints"))
    file = place / "adapter/adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.score.weight"
    save_file(tensors | {name: -tensors[name]}, file)
    assert main(["export", str(place), "--output", str(tmp_path / "out")]) == 3
    assert "the adapter on disk is not the model that was evaluated: its rewards differ by" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_a_reward_model_has_no_use_for_is_refused(tiny_base, tmp_path):
    """Targets that only generate, several models on one base: all at once, before anything is loaded."""
    recipe = reward_recipe(
        tmp_path, tiny_base, "export.targets=[vllm, ollama, {engine: vllm, form: adapter}]",
        f"export.adapters={{other: {tmp_path}}}",
    )  # fmt: skip
    with pytest.raises(RecipeError) as caught:
        load_data(recipe)
    problems = "\n".join(caught.value.problems)
    assert "export.targets: ollama (merged): does not serve a reward model; take vllm (merged)" in problems
    assert "export.targets: vllm (adapter): does not serve a reward model" in problems
    assert "export.adapters: no engine serves several reward models on one base; export each by itself" in problems


def test_malformed_rows_are_named_by_check(tiny_base, tmp_path, capsys):
    recipe = reward_recipe(tmp_path, tiny_base)
    file = tmp_path / "pairs.jsonl"
    lines = file.read_text().splitlines()
    lines[4] = json.dumps(pair(0, 4) | {"margin": -2})
    lines[6] = json.dumps(pair(1, 1) | {"aspects": {"right": "both"}})
    file.write_text("\n".join(lines) + "\n")
    assert main(["check", str(tmp_path / "judge.yaml")]) == 2
    said = capsys.readouterr().err
    assert f"{file}:5: margin: a number of 0 or more is needed, got -2" in said
    assert f"{file}:7: aspects.right: chosen, rejected, tie or null is needed, got 'both'" in said
    assert recipe.settings.score_names == ("right", "form")


@pytest.mark.filterwarnings("ignore:The following .* keys did not match", "ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("architecture", ["qwen3", "gemma3", "gpt2", "qwen3-moe", "opt"])
def test_every_decoder_is_merged_under_its_score_head(architecture, tmp_path):
    """Other names, other prefixes, fused experts, one tied embedding: rewards of the folder = those of the peft model."""
    from transformers import AutoModelForSequenceClassification

    from finetune.data.chat import Example
    from finetune.export.layout import write_layout
    from finetune.export.merge import merge
    from finetune.export.rewards import peft_rewards
    from finetune.model.adapter import add_adapter
    from finetune.model.score import score_config, with_score_head
    from finetune.recipe_peft import LoraSection
    from tests.equivalence.tiny_models import tiny_model

    base = tiny_model(architecture)
    base.config.pad_token_id = 0
    base.save_pretrained(tmp_path / "base")
    tuned, _ = add_adapter(with_score_head(base, ["one", "two"]), LoraSection(r=2), seed=1)
    torch.manual_seed(2)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    (tmp_path / "merged").mkdir()
    merged = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", None, score_head=True)
    write_layout(tmp_path / "base", tmp_path / "base", tmp_path / "merged", tied=merged.tied,
                 score_config=score_config(tuned))  # fmt: skip
    ids = torch.tensor([[5, 17, 80, 3, 44], [90, 8, 12, 71, 6]])
    ours = torch.tensor(peft_rewards(tuned, [Example(tuple(row), (), "f:1") for row in ids.tolist()]))
    with torch.no_grad():
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()(input_ids=ids).logits
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    assert not any("lm_head" in name for name in load_file(tmp_path / "merged/model.safetensors"))


def test_a_base_without_such_a_class_is_refused():
    from finetune.model.score import with_score_head
    from tests.equivalence.tiny_models import tiny_model

    with pytest.raises(RecipeError, match="no model for sequence classification with a plain `score` head for Lfm2"):
        with_score_head(tiny_model("lfm2"), ["one"])
