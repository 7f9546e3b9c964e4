"""The terms against what autograd saves, to the byte: a tiny Llama with LoRA on all linear layers, by dtype and attention.

Two layers of width 64 with 4 heads of 16 (2 of keys), feed-forward 96, LoRA r 4; two rows of 24 tokens, 10 trained.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from finetune.device import DEVICES
from finetune.model.adapter import add_adapter
from finetune.model.fused import fuse
from finetune.model.head import TrainedPositions
from finetune.plan.activations import DOCUMENTS, Keeping, kept
from finetune.plan.rows import MicroBatch
from finetune.plan.shape import shape_of
from finetune.recipe_peft import LoraSection

ROWS, WIDTH, TRAINED = 2, 24, 10
PLAIN = Keeping()
BATCH = MicroBatch(rows=ROWS, width=WIDTH, real=ROWS * WIDTH, trained=TRAINED, squares=ROWS * WIDTH**2)


def tiny(dtype: torch.dtype, attention: str, **lora):
    config = LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, attn_implementation=attention, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM._from_config(config, dtype=dtype)
    model.requires_grad_(False)
    return add_adapter(model, LoraSection(r=4, **lora), 0)[0]


def saved_in_layers(model, dtype: torch.dtype) -> int:
    """Bytes that autograd keeps of a forward pass beside parameters and buffers, of the decoder layers alone."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    inside, found, held = [], {}, []
    for layer in model.get_base_model().get_decoder().layers:
        layer.register_forward_pre_hook(lambda *_: inside.append(True))
        layer.register_forward_hook(lambda *_: (inside.pop(), None)[1])

    def pack(tensor):
        place = tensor.untyped_storage().data_ptr()
        if inside and place not in known:
            found[place] = tensor.untyped_storage().nbytes()
            held.append(tensor)  # so that no other tensor gets its place
        return tensor

    wrapped = TrainedPositions(model).train()
    ids = torch.randint(0, 300, (ROWS, WIDTH), generator=torch.Generator().manual_seed(0))
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        logits = wrapped(ids, torch.ones_like(ids), torch.arange(TRAINED))
        F.cross_entropy(logits.float(), ids.flatten()[:TRAINED])
    return sum(found.values())


def of_layers(model, dtype: torch.dtype, keeping: Keeping = PLAIN) -> float:
    shape = shape_of(model, None, 2 if dtype == torch.bfloat16 else 4)
    if keeping.fused:
        shape = replace(shape, attention=DOCUMENTS)
    terms = kept(shape, BATCH, keeping).terms
    return sum(size for name, size in terms.items() if name != "ends")


def never_kept(dtype: torch.dtype) -> int:
    """What the terms leave out, once a model: before the first norm nothing wants a gradient, so neither the norm's input
    nor (under autocast) A of q, k and v is kept for one; the two tables of rotary angles (24 x 16) are."""
    size = 2 if dtype == torch.bfloat16 else 4
    norm, halves, tables = ROWS * WIDTH * 4 * (64 + 1), 3 * 4 * 64 * 2, 2 * WIDTH * 16 * size
    return norm + (halves if dtype == torch.bfloat16 else 0) - tables


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def test_the_terms_are_what_autograd_saves(dtype, attention):
    model = tiny(dtype, attention)
    assert of_layers(model, dtype) - never_kept(dtype) == saved_in_layers(model, dtype)


@pytest.mark.parametrize("lora", [{}, {"target_modules": ("q_proj", "v_proj")}], ids=["all-linear", "q and v"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def test_the_terms_of_fused_layers(dtype, lora):
    """The first norm keeps nothing, as nothing there wants a gradient (what it gives the adapters do); two tables of 48
    angles are kept (48 x 16)."""
    model, size = tiny(dtype, "eager", **lora), 2 if dtype == torch.bfloat16 else 4
    never = ROWS * WIDTH * 4 - 2 * ROWS * WIDTH * 16 * size
    with fuse(model, DEVICES["cpu"].kernels(), dtype, torch.device("cpu"), lambda line: None) as fused:
        assert all(fused.about[kind]["modules"] for kind in ("rms_norm", "rotary", "lora", "attention"))
        assert of_layers(model, dtype, Keeping(fused=True)) - never == saved_in_layers(model, dtype)


def test_a_subset_of_targets_keeps_less():
    model = tiny(torch.float32, "sdpa", target_modules=("q_proj", "v_proj"))
    assert of_layers(model, torch.float32) - never_kept(torch.float32) == saved_in_layers(model, torch.float32)


def test_bytes_by_hand():
    """float32, eager, a token of a layer: norms 2 x 4 x (64 + 1) = 520; inputs of q (k and v read the same), o, gate
    (and up), down: 4 x (64 + 64 + 64 + 96) = 1152; ranks 7 x 4 x 4 = 112; feed-forward 3 x 4 x 96 = 1152; attention
    3 x 4 x 64 = 768; weights 24 x 4 heads x 4 = 384. 48 tokens, 2 layers."""
    shape = shape_of(tiny(torch.float32, "eager"), None, 4)
    found = kept(shape, BATCH, Keeping()).terms
    each = {"norms": 520, "adapter inputs": 1152, "adapter ranks": 112, "adapter casts": 0, "feed-forward": 1152,
            "attention": 768, "attention weights": 384}  # fmt: skip
    assert {name: found[name] for name in each} == {name: size * 48 * 2 for name, size in each.items()}


def test_logits_by_hand():
    """10 trained positions over 300 words: 8 bytes each (12 where the head trains), and a hidden state of 64 with its
    derivative; 16 with label smoothing; nothing under a score head. Of many positions 27,962 x 300 at a time."""
    shape = shape_of(tiny(torch.float32, "eager"), None, 4)
    assert kept(shape, BATCH, PLAIN).head == 10 * 300 * 8 + 2 * 4 * 10 * 64
    assert kept(replace(shape, head_trains=True), BATCH, PLAIN).head == 10 * 300 * 12 + 2 * 4 * 10 * 64
    assert kept(shape, BATCH, Keeping(smoothed=True)).head == 10 * 300 * 16
    assert kept(replace(shape, vocabulary=0), BATCH, PLAIN).head == 0
    many = replace(BATCH, trained=50_000)
    assert kept(shape, many, PLAIN).head == (2**23 // 300) * 300 * 8 + 2 * 4 * 50_000 * 64


def test_checkpointing_keeps_the_inputs_of_layers_and_one_layer():
    shape = shape_of(tiny(torch.float32, "eager"), None, 4)
    plain, thin = kept(shape, BATCH, Keeping()), kept(shape, BATCH, Keeping(checkpointed=True))
    layers = sum(size for name, size in plain.terms.items() if name != "ends")
    assert thin.terms == {"layer inputs": 2 * 48 * 4 * 64, "ends": plain.terms["ends"]}
    assert thin.workspace == plain.workspace + layers / 2


def test_documents_of_a_packed_row_are_apart_only_in_flash_kernels():
    """Two documents of 10 and 14 tokens in a row of 24: 576 pairs, or 296."""
    batch = MicroBatch(rows=1, width=24, real=24, trained=5, squares=10**2 + 14**2)
    shape = shape_of(tiny(torch.float32, "eager"), None, 4)
    assert kept(shape, batch, Keeping()).terms["attention weights"] == 2 * 576 * 4 * 4
    from finetune.plan.activations import attended

    assert attended(replace(shape, attention="flash_attention_2"), batch) == 296
