"""The data section end to end on the tiny model: packing, ready conversations, the cache, screening, the audit."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from finetune.cli import main
from finetune.data.chat import Example
from finetune.errors import DataError, RecipeError
from finetune.inputs import load_data, make_stage
from finetune.recipe import Recipe
from finetune.recipefile import load_recipe
from finetune.run import run
from tests.conftest import byte_tokenizer
from tests.equivalence.tiny_models import tiny_model


def losses(recipe: Recipe) -> list[float]:
    return [json.loads(line)["loss"] for line in (recipe.output_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_packed_run_learns_and_is_proved(tiny_recipe):
    """31 conversations of about 41 tokens in rows of 128: 11 rows; every row's documents isolated by the probe."""
    recipe = tiny_recipe("data.packing=true", "data.max_length=128", "train.global_batch_size=2")
    result = run(recipe)
    assert losses(recipe)[-1] < losses(recipe)[0]
    assert result.manifest["merge_proof"]["greedy_agreement"] == 1.0
    assert result.manifest["training"]["trained_tokens"] > 0


@pytest.mark.slow
def test_a_packed_epoch_has_the_loss_of_the_unpacked_one(tiny_recipe):
    """One step over all rows at once: the mean over trained tokens is the same number, packed or not."""
    whole = ["train.max_steps=1", "train.micro_batch_size=1"]
    plain = tiny_recipe(*whole, "train.global_batch_size=31")
    run(plain)
    unpacked = losses(plain)
    packed = tiny_recipe(
        *whole, "train.global_batch_size=11", "data.packing=true", "data.max_length=128", "output_dir=run2"
    )
    packed = packed.model_copy(update={"output_dir": plain.output_dir.parent / "run2"})
    run(packed)
    assert losses(packed) == pytest.approx(unpacked, rel=1e-6)


def adapter(recipe: Recipe) -> dict[str, torch.Tensor]:
    return load_file(recipe.output_dir / "adapter/adapter_model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["false", "true"])
def test_padding_free_is_the_padded_run(tiny_recipe, packing):
    """T29: nine steps of micro-batches of two sequences, of one document or several: the same losses and adapter."""
    shape = ["data.max_length=128", f"data.packing={packing}", "train.global_batch_size=4", "train.micro_batch_size=2"]
    padded = tiny_recipe(*shape)
    run(padded)
    free = tiny_recipe(*shape, "data.padding_free=true")
    free = free.model_copy(update={"output_dir": padded.output_dir.parent / "free"})
    run(free)
    assert len(losses(padded)) == 9
    assert losses(free) == pytest.approx(losses(padded), abs=1e-5)
    weights, others = adapter(padded), adapter(free)
    assert weights.keys() == others.keys()
    assert max(float((others[name] - weights[name]).abs().max()) for name in weights) < 1e-4
    stage, _ = make_stage(free, byte_tokenizer())
    two = [Example((1,) * 5, (1,) * 5, "f:1"), Example((2,) * 9, (2,) * 9, "f:2")]
    assert stage.collate(two)["input_ids"].shape == (1, 14)  # the other run would have made (2, 9)


def test_padding_free_is_refused_where_documents_leak(tiny_recipe, tmp_path):
    """T30: OPT numbers its positions by the row: the run stops and names the key that is on."""
    base = tmp_path / "opt"
    tokenizer = byte_tokenizer()
    tiny_model("opt", vocab_size=len(tokenizer)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    recipe = tiny_recipe("data.padding_free=true", f"model.name_or_path={base}", "data.max_length=128")
    with pytest.raises(RecipeError) as error:
        run(recipe)
    (problem,) = error.value.problems
    assert problem.startswith("data.padding_free: OPTForCausalLM lets packed documents see each other")
    assert "; set data.padding_free: false, or data.allow_cross_doc: true" in problem


def test_ready_conversations_need_no_template(tiny_recipe, tmp_path):
    tiny_recipe()
    chats = tmp_path / "chats.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"it is {n}"}]}
        for n in range(30)
    ]
    chats.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = load_recipe(
        tmp_path / "tiny.yaml",
        [
            "data.template=null", "data.format=auto", f"data.train={chats}", "data.split={eval_rows: 6}",
            "train.max_steps=1",
        ],
    )  # fmt: skip
    result = run(recipe)
    assert set(result.scores["tuned"]) == {"exact_match", "finished"}
    data = result.manifest["data"]
    assert (data["sources"][0]["format"], data["template"], data["train_samples"]) == ("messages", None, 24)
    assert not (result.bundle / "data_template.yaml").exists()


def test_encoding_is_cached_until_something_changes(tiny_recipe, capsys):
    """T6 (part): a hit gives the same losses, bit for bit; another max_length is another key."""
    first = tiny_recipe("train.max_steps=2")
    run(first)
    assert "encoding: now in the cache" in capsys.readouterr().out
    again = first.model_copy(update={"output_dir": first.output_dir.parent / "again"})
    run(again)
    assert "encoding: from the cache" in capsys.readouterr().out
    assert losses(again) == losses(first)
    longer = tiny_recipe("train.max_steps=2", "data.max_length=2000")
    run(longer.model_copy(update={"output_dir": first.output_dir.parent / "longer"}))
    assert "encoding: now in the cache" in capsys.readouterr().out


def test_held_out_rows_that_are_also_trained_stop_the_run(tiny_recipe, tiny_data):
    """T45: overlap refuses, with the rows; a flag only counts it."""
    same = ["data.split=null", f"data.eval={tiny_data}/larger.jsonl"]
    with pytest.raises(DataError, match=r"larger.jsonl:1: raw_overlap: .*larger.jsonl:1"):
        load_data(tiny_recipe(*same))
    assert load_data(tiny_recipe(*same, "data.screen.train_eval_overlap=report")).counts["raw_overlap"] == 40


def test_the_audit_passes_and_fails_for_ci(tiny_recipe, tiny_data, tmp_path, capsys):
    tiny_recipe()
    command = ["audit", str(tmp_path / "tiny.yaml"), "--output", str(tmp_path / "audit")]
    assert main(command) == 0
    report = json.loads((tmp_path / "audit/audit.json").read_text())
    assert report["failed"] is False and report["splits"] == {"train": 31, "eval": 9}
    assert main([*command, "--set", "data.max_length=20"]) == 2
    assert json.loads((tmp_path / "audit/audit.json").read_text())["failed"] is True
    assert "<script" not in (tmp_path / "audit/audit.html").read_text()
    capsys.readouterr()
