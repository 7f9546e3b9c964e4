"""Virtual tokens: peft's own loss, answers that padding does not change, and the bases and recipes that can't have them."""

from __future__ import annotations

import pytest
import torch

from finetune.errors import RecipeError
from finetune.model.adapter import add_adapter
from finetune.model.head import TrainedPositions
from finetune.model.reference import adapter_off
from finetune.model.virtual import generation_inputs
from finetune.recipe_peft import PEFT_SECTIONS
from tests.equivalence.tiny_models import tiny_model
from tests.methods import PROMPTED, changes

COUNT = 5
PROMPTS = ([5, 17, 80], [9, 61, 30, 22, 8, 7], [90])


def made(architecture: str, kind: str, **settings):
    """The tiny model with virtual tokens that stir it."""
    model, coverage = add_adapter(
        tiny_model(architecture), PEFT_SECTIONS[kind](num_virtual_tokens=COUNT, **settings), 0
    )
    torch.manual_seed(2)
    for parameter in model.prompt_encoder.parameters():
        parameter.data = torch.randn_like(parameter)
    return model.eval(), coverage


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3-moe"])
@pytest.mark.parametrize("kind", PROMPTED)
def test_the_loss_is_peft_s(architecture, kind):
    """Cross-entropy at the trained positions of three padded rows, and its gradient, = peft's own by labels, to 1e-6.

    `keep` counts positions of the row (B, T); the model sees P more (prompt tuning), or a cache of P (prefix tuning).
    """
    model, _ = made(architecture, kind)
    ids = torch.randint(3, 96, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(9) < torch.tensor([[9], [6], [4]])).long()
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :2] = -100
    keep = torch.nn.functional.pad(labels[:, 1:] != -100, (0, 1))
    wrapped = TrainedPositions(model)
    logits = wrapped(ids, mask, keep.flatten().nonzero()[:, 0])
    loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:][labels[:, 1:] != -100])
    wrapped.release()
    theirs = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert [parameter.shape[-2] for parameter in trained] == [COUNT]
    (ours,), (wanted,) = torch.autograd.grad(loss, trained), torch.autograd.grad(theirs, trained)
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-6)
    assert float((ours - wanted).abs().max()) <= 1e-6 * max(1.0, float(wanted.abs().max()))
    with torch.no_grad(), adapter_off(model):
        inside = model(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(inside, tiny_model(architecture)(input_ids=ids, attention_mask=mask).logits)


def greedy(model, prompt: list[int], count: int) -> list[int]:
    """Un-batched, without a cache: the whole row again for every token."""
    ids = list(prompt)
    for _ in range(count):
        row = torch.tensor([ids])
        with torch.no_grad():
            ids.append(
                int(model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits[0, -1].argmax())
            )
    return ids[len(prompt) :]


@pytest.mark.parametrize(("architecture", "kind"), [
    ("llama", "prompt_tuning"), ("gpt2", "prompt_tuning"), ("qwen3-swa", "prompt_tuning"), ("gemma3", "prompt_tuning"),
    ("llama", "prefix_tuning"), ("gpt2", "prefix_tuning"), ("opt", "prefix_tuning"),
])  # fmt: skip
def test_answers_do_not_depend_on_the_batch(architecture, kind):
    """Prompts of 3, 6 and 1 tokens, padded on the left, with a cache: each answer is the one it gets alone.

    (peft's own generation puts the virtual tokens before the padding; four of these seven then answer otherwise.) With
    the adapter off it is the base that answers.
    """
    model, _ = made(architecture, kind)
    wanted = [greedy(model, prompt, 8) for prompt in PROMPTS]
    assert answers(model) == wanted
    with adapter_off(model):
        assert answers(model) == [greedy(tiny_model(architecture), prompt, 8) for prompt in PROMPTS]


def answers(model) -> list[list[int]]:
    from transformers import GenerationConfig

    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    config = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0, use_cache=True)
    with torch.no_grad():
        asked, inputs, before = generation_inputs(model, ids, mask)
        return asked.generate(**inputs, generation_config=config)[:, before:].tolist()


def test_fresh_virtual_tokens():
    """Words of the vocabulary by their embeddings; the same for the same seed; float32 on a base in bfloat16."""
    base = tiny_model("llama", dtype=torch.bfloat16)
    words = base.get_input_embeddings().weight.float()
    section = PEFT_SECTIONS["prompt_tuning"](num_virtual_tokens=COUNT)
    one, coverage = add_adapter(base, section, 7)
    (fresh,) = (parameter for parameter in one.parameters() if parameter.requires_grad)
    assert fresh.dtype == torch.float32
    assert all(bool((words == row).all(-1).any()) for row in fresh.detach())
    two, _ = add_adapter(tiny_model("llama", dtype=torch.bfloat16), section, 7)
    assert torch.equal(fresh, next(parameter for parameter in two.parameters() if parameter.requires_grad))
    assert coverage.line().endswith("parameters trained (0.24 %); 5 virtual tokens before every prompt")


@pytest.mark.parametrize(("architecture", "kind", "problem"), [
    ("mistral", "prefix_tuning", "MistralForCausalLM has a sliding window of 6 tokens"),
    ("gemma3", "prefix_tuning", "has layers of sliding_attention"),
    ("lfm2", "prefix_tuning", "has layers of conv"),
    ("falcon-h1", "prompt_tuning", "answers no prompt that is given as embeddings"),
])  # fmt: skip
def test_bases_without_virtual_tokens(architecture, kind, problem):
    with pytest.raises(RecipeError, match=problem):
        made(architecture, kind)


@pytest.mark.parametrize(("more", "problem"), [
    (["data.packing=true"], "data.packing: with prompt_tuning the documents of a row would share"),
    (["data.padding_free=true"], "data.padding_free: with prompt_tuning"),
    (["train.torch_compile=true"], "train.torch_compile: not with prompt_tuning"),
    (["train.optim=muon"], "train.optim: muon is for LoRA's matrices"),
    (["train.loraplus_lr_ratio=4.0"], "train.loraplus_lr_ratio: is the rate of LoRA's B"),
    (["export.dtype=float16"], "export.dtype: nothing is merged"),
    (["export.adapters={b: x}"], "export.adapters: engines serve several LoRA adapters"),
    (["prompt_tuning.modules_to_save=[lm_head]"], "modules_to_save: a model with virtual tokens trains nothing else"),
    (["prompt_tuning.num_virtual_tokens=0"], "greater than or equal to 1"),
    (["prompt_tuning.prompt_tuning_init=TEXT"], "go together"),
    (["prompt_tuning.prompt_tuning_init=text"], "'SAMPLE_VOCAB', 'TEXT' or 'RANDOM'"),
    (["prompt_tuning.num_virtual_token=4"], "not a field of peft.PromptTuningConfig; did you mean 'num_virtual_tokens'"),
    (["prefix_tuning={num_virtual_tokens: 4}"], "prefix_tuning: is for peft_type prefix_tuning"),
    (["peft_type=prompt"], "peft_type"),
])  # fmt: skip
def test_recipes_without_virtual_tokens(tiny_recipe, more, problem):
    with pytest.raises(RecipeError) as error:
        tiny_recipe(*changes("prompt_tuning"), *more)
    assert problem in str(error.value)


@pytest.mark.parametrize(("kind", "more", "problem"), [
    ("prefix_tuning", ["train.gradient_checkpointing=true"], "train.gradient_checkpointing: a prefix is a cache"),
    ("prefix_tuning", ["prefix_tuning.prefix_projection=true"], "prefix_tuning.prefix_projection: peft saves what"),
    ("oft", ["oft.module_dropout=0.1"], "oft.module_dropout: peft 0.20 and 0.21 have it and never apply it"),
    ("oft", ["oft.r=4"], "give exactly one of `r` (4"),
    ("oft", ["oft.bias=all"], "oft.bias"),
    ("vera", ["vera.r=0"], "vera.r"),
    ("prefix_tuning", ["prefix_tuning.token_dim=32"], "prefix_tuning.token_dim: is read off the base"),
    ("ia3", ["ia3.target_modules=[k_proj]", "ia3.feedforward_modules=[down_proj]"], "down_proj is not among"),
    ("ia3", ["grpo.engine=paged"], "grpo"),
    ("ia3", ["ia3.lora_alpha=4"], "ia3.lora_alpha: not a field of peft.IA3Config"),
])  # fmt: skip
def test_recipes_of_other_methods(tiny_recipe, kind, more, problem):
    with pytest.raises(RecipeError) as error:
        tiny_recipe(*changes(kind), *more)
    assert problem in str(error.value)


def test_virtual_tokens_need_room(tiny_recipe):
    """Known before anything is loaded: 1024 positions of the base hold max_length and the 5 tokens, or not."""
    from finetune.inputs import load_data

    load_data(tiny_recipe(*changes("prompt_tuning"), "data.max_length=1019"))
    with pytest.raises(
        RecipeError, match="1020 and 5 virtual tokens are more than the base's 1024 positions; at most 1019"
    ):
        load_data(tiny_recipe(*changes("prompt_tuning"), "data.max_length=1020"))
