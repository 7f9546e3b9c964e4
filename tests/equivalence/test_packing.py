"""Documents packed into a row are the documents alone: the same logits, loss and gradients, with none seeing another."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from transformers import AttentionInterface

from finetune.data.chat import IGNORED, Example
from finetune.data.pack import join, pack
from finetune.model.head import TrainedPositions, packed_inputs
from finetune.recipe_stages import SftSection
from finetune.stages.sft import Sft
from finetune.step import micro_batches_of
from tests.equivalence.tiny_models import VOCABULARY, tiny_model

LENGTHS = (7, 1, 12, 30, 2)
TRANSFORMERS = ["llama", "qwen3", "qwen3-swa", "mistral", "gemma3"]
STAGE = Sft(
    SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0)), SimpleNamespace(padding_free=False), SftSection()
)


def documents(seed: int = 1) -> list[Example]:
    """Documents of LENGTHS tokens, the second half of each trained."""
    draw = torch.Generator().manual_seed(seed)
    examples = []
    for index, length in enumerate(LENGTHS):
        ids = tuple(torch.randint(5, VOCABULARY, (length,), generator=draw).tolist())
        examples.append(Example(ids, (IGNORED,) * (length // 2) + ids[length // 2 :], f"f:{index + 1}"))
    return examples


def logits(model, examples) -> list[torch.Tensor]:
    """Logits (T, V) of each document, all of them packed into one row."""
    batch = STAGE.collate([join(examples)])
    inputs = packed_inputs(model.config, batch["input_ids"], batch["position_ids"])
    with torch.no_grad():
        return list(model(**inputs, use_cache=False).logits[0].split([len(one.ids) for one in examples]))


def loss_and_gradient(model, batches) -> tuple[float, torch.Tensor]:
    """Loss sum over the batches, and the gradient of all parameters as one vector."""
    wrapped = TrainedPositions(model)
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = STAGE.loss(wrapped, batch).value
        loss.backward()
        total += float(loss.detach())
    wrapped.release()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return total, gradient


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_logits(name, attention):
    """T29: packed = unpacked to 1e-5; another token in document A leaves every other document bit for bit."""
    model = tiny_model(name, attention)
    examples = documents()
    packed = logits(model, examples)
    for example, got in zip(examples, packed, strict=True):
        ids = torch.tensor([example.ids])
        with torch.no_grad():
            alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        assert float((got - alone).abs().max()) < 1e-5
    for changed in (0, 2, 3):
        ids = list(examples[changed].ids)
        ids[-1] = 5 + (ids[-1] - 4) % (VOCABULARY - 5)
        after = logits(
            model, [*examples[:changed], replace(examples[changed], ids=tuple(ids)), *examples[changed + 1 :]]
        )
        same = [torch.equal(one, other) for one, other in zip(packed, after, strict=True)]
        assert same == [index != changed for index in range(len(examples))]


# float64 where all of the model computes in it: eager attention takes its softmax, and Gemma its norms, in float32.
CASES = [(name, attention, torch.float32, 1e-6) for name in TRANSFORMERS for attention in ("sdpa", "eager")]
CASES += [(name, "sdpa", torch.float64, 1e-12) for name in TRANSFORMERS if name != "gemma3"]


@pytest.mark.parametrize(("name", "attention", "dtype", "bound"), CASES)
def test_loss_and_gradients(name, attention, dtype, bound):
    """T29: one packed row = a padded batch = two packed rows of unlike length, in train mode."""
    model = tiny_model(name, attention, dtype).train()
    examples = documents()
    loss, gradient = loss_and_gradient(model, [STAGE.collate(examples)])
    two_rows = [join(examples[:3]), join(examples[3:])]
    for batch in (STAGE.collate([join(examples)]), STAGE.collate(two_rows)):
        assert STAGE.count(batch) == sum(length - max(1, length // 2) for length in LENGTHS)
        other_loss, other_gradient = loss_and_gradient(model, [batch])
        assert other_loss == pytest.approx(loss, rel=bound)
        assert float((other_gradient - gradient).norm() / gradient.norm()) < bound


def test_gradient_checkpointing():
    """T29: the layers computed a second time know the documents too."""
    model = tiny_model("mistral", "sdpa").train()
    examples = documents()
    loss, gradient = loss_and_gradient(model, [STAGE.collate(examples)])
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    other_loss, other_gradient = loss_and_gradient(model, [STAGE.collate([join(examples)])])
    assert other_loss == pytest.approx(loss, rel=1e-6)
    assert float((other_gradient - gradient).norm() / gradient.norm()) < 1e-6


def test_the_mistakes_would_show():
    """The same comparison fails as soon as a 2-D mask of ones, or a cache, comes with the positions."""
    model = tiny_model("llama", "sdpa")
    batch = STAGE.collate([join(documents())])
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
    with torch.no_grad():
        right = model(**inputs, use_cache=False).logits
        mask = torch.ones_like(batch["input_ids"])
        assert float((model(**inputs, use_cache=False, attention_mask=mask).logits - right).abs().max()) > 0.1
        assert float((model(**inputs, use_cache=True).logits - right).abs().max()) > 0.1


def test_rows_without_trained_tokens():
    """T19: a pack with nothing to train on, and a process with no pack at all, add loss 0 and gradient 0."""
    model = tiny_model("qwen3", "sdpa", torch.float64).train()
    examples = documents()
    silent = [replace(one, labels=(IGNORED,) * len(one.ids)) for one in documents(2)]
    packs = [join(examples), join(silent)]
    loss, gradient = loss_and_gradient(model, [STAGE.collate(packs[:1])])
    for chosen in (packs, packs[:1]):  # the second process gets the silent pack, then none and so the loop's blank one
        batches = [batch for process in (0, 1) for batch in micro_batches_of(STAGE, chosen, 2, 1, process)]
        assert [STAGE.count(batch) for batch in batches] == [STAGE.count(STAGE.collate(packs[:1])), 0]
        assert loss_and_gradient(model, batches[1:])[0] == 0.0
        assert float(loss_and_gradient(model, batches[1:])[1].abs().max()) == 0.0
        window_loss, window_gradient = loss_and_gradient(model, batches)
        assert window_loss == pytest.approx(loss, rel=1e-12)
        assert float((window_gradient - gradient).norm() / gradient.norm()) < 1e-12


def test_micro_batches_of_packs():
    """The loop's split of a global batch of packs into micro-batches of 1, 2, 4 changes nothing."""
    model = tiny_model("llama", "sdpa", torch.float64).train()
    packs = pack([*documents(1), *documents(2), *documents(3)], 48)
    assert [row.lengths for row in packs] == [(7, 7, 7), (1, 1, 12, 30, 1), (12, 30, 2, 2, 2), (12, 30)]
    sums = {}
    for micro in (1, 2, 4):
        batches = micro_batches_of(STAGE, packs, 1, micro, 0)
        assert len(batches) == 4 // micro
        sums[micro] = loss_and_gradient(model, batches)
    for micro in (2, 4):
        assert sums[micro][0] == pytest.approx(sums[1][0], rel=1e-7)  # the loss is summed in float32
        assert float((sums[micro][1] - sums[1][1]).norm() / sums[1][1].norm()) < 1e-12


def flash_emulated(module, query, key, value, attention_mask, scaling=None, sliding_window=None, **given):
    """What a varlen kernel computes: each document between two bounds on its own, in a batch of one row."""
    assert attention_mask is None
    bounds = given["cu_seq_lens_q"].tolist()
    assert query.shape[0] == 1
    assert given["cu_seq_lens_q"].dtype == torch.int32
    assert given["max_length_q"] == max(right - left for left, right in pairwise(bounds))
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    parts = []
    for left, right in pairwise(bounds):
        q, k, v = (tensor[:, :, left:right] for tensor in (query, key, value))
        apart = torch.arange(right - left)[:, None] - torch.arange(right - left)
        seen = (apart >= 0) & (apart < (sliding_window or right))
        parts.append(torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, scale=scaling))
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None


def test_flash_gets_one_row_and_its_bounds():
    """The arguments of flash kernels, with an emulation of one: two packed rows are one row of all documents."""
    AttentionInterface.register("flash_emulated", flash_emulated)
    model = tiny_model("mistral", "sdpa").train()
    batch = STAGE.collate([join(documents()[:3]), join(documents()[3:])])
    loss, gradient = loss_and_gradient(model, [batch])
    model.config._attn_implementation = "flash_emulated"
    inputs = packed_inputs(model.config, batch["input_ids"], batch["position_ids"])
    assert inputs["cu_seq_lens_q"].tolist() == [0, 7, 8, 20, 32, 62, 64]  # 12 tokens fill up the first row to 32
    assert inputs["max_length_k"] == 30
    flash_loss, flash_gradient = loss_and_gradient(model, [batch])
    assert flash_loss == pytest.approx(loss, rel=1e-6)
    assert float((flash_gradient - gradient).norm() / gradient.norm()) < 1e-6
