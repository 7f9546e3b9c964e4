"""(IA)^3, OFT and VeRA at export: values by hand, peft's merge, the native rule, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.errors import RecipeError
from finetune.export.canon import canonical
from finetune.export.changes import read_adapter
from finetune.export.merge import merge
from finetune.export.multiplied import rotations
from finetune.export.vera import as_lora
from finetune.model.adapter import add_adapter
from finetune.model.check import adapter_shapes, check_adapter
from finetune.recipe_peft import PEFT_SECTIONS
from tests.equivalence.tiny_models import tiny_model
from tests.export.made import IDS, SMALL, edit, tensors

pytestmark = pytest.mark.filterwarnings("ignore:.*save vera_A and vera_B.*", "ignore:.*load vera_A and vera_B.*")
# What is tried on which architecture: Linear, Conv1D, biases, a mixture of experts, and OFT in all its kinds.
CASES = [
    ("llama", "ia3", {}),
    ("gpt2", "ia3", {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]}),
    ("opt", "ia3", {"target_modules": ["k_proj", "fc2"], "feedforward_modules": ["fc2"]}),
    ("qwen3-moe", "ia3", {"target_modules": ["k_proj", "v_proj"], "feedforward_modules": []}),
    ("llama", "vera", {"r": 6}),
    ("gpt2", "vera", {"r": 6, "save_projection": False}),
    ("llama", "oft", {"oft_block_size": 8}),
    ("llama", "oft", {"r": 4, "use_cayley_neumann": False}),
    ("llama", "oft", {"oft_block_size": 8, "coft": True, "eps": 0.01}),
    ("llama", "oft", {"oft_block_size": 8, "block_share": True, "num_cayley_neumann_terms": 3}),
    ("opt", "oft", {"oft_block_size": 28}),  # no divisor of 64 or 96: peft takes 32 and 24
]


def made(folder: Path, architecture: str, kind: str, dtype: torch.dtype = torch.float32, **settings):
    """A base with random biases and an adapter with random weights on disk; the peft model in float32."""
    base = tiny_model(architecture, dtype=dtype, **({} if architecture == "gpt2" else SMALL))
    for name, parameter in base.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    base.save_pretrained(folder / "base")
    model, _ = add_adapter(base.float(), PEFT_SECTIONS[kind](**settings), 0)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.eval().save_pretrained(folder / "adapter", save_embedding_layers=False)
    check_adapter(folder / "adapter", adapter_shapes(model), trained=True)
    return model


def merged(folder: Path, name: str, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """The tensors of the merge in `folder/name`, out of the canonical adapter as a bundle has it."""
    if not (folder / "canon").exists():
        canonical(folder / "adapter", folder / "canon", base=folder / "base")
    (folder / name).mkdir()
    merge(folder / "base", folder / "canon", folder / name, dtype)
    return tensors(folder / name)


@pytest.mark.parametrize(("architecture", "kind", "settings"), CASES, ids=str)
def test_merged_is_what_peft_merges(tmp_path, architecture, kind, settings):
    """In float32 every parameter is peft's merge to 1e-6, and the merged model gives the adapter's logits to 1e-5."""
    model = made(tmp_path, architecture, kind, **settings)
    with torch.no_grad():
        wanted = model(IDS).logits
    peft = model.merge_and_unload()
    ours = merged(tmp_path, "merged")
    told = peft.state_dict()
    known = ours.keys() & told.keys()
    assert len(known) > 10
    assert max(float((ours[name] - told[name]).abs().max()) for name in known) < 1e-6
    changed = [n for n in known if not torch.equal(ours[n], load_file(tmp_path / "base/model.safetensors")[n])]
    assert len(changed) >= 4
    peft.load_state_dict({name: ours[name] for name in known}, strict=False)
    with torch.no_grad():
        assert float((peft(IDS).logits - wanted).abs().max()) < 1e-5


@pytest.mark.parametrize(("architecture", "kind"), [("opt", "ia3"), ("llama", "oft"), ("llama", "vera")])
def test_native_rule(tmp_path, architecture, kind):
    """T35: a base in bfloat16 merged in its own dtype = its merge in float32, cast once: 0 elements differ."""
    own = {"ia3": {"target_modules": ["k_proj", "fc2"], "feedforward_modules": ["fc2"]}}.get(kind, {})
    made(tmp_path, architecture, kind, torch.bfloat16, **own)
    narrow, wide = merged(tmp_path, "narrow"), merged(tmp_path, "wide", torch.float32)
    assert all(tensor.dtype == torch.bfloat16 for tensor in narrow.values())
    assert sum(int((wide[name].bfloat16() != narrow[name]).sum()) for name in narrow) == 0


def by_hand(folder: Path, config: dict, weights: dict[str, torch.Tensor], bias: bool = False) -> torch.Tensor:
    """The merged `w.weight` (2, 4) of 1..8, out of an adapter's file; with `bias` `w.bias` of (1, -1) instead."""
    (folder / "base").mkdir()
    (folder / "adapter").mkdir()
    base = {"w.weight": torch.arange(1.0, 9).reshape(2, 4), "w.bias": torch.tensor([1.0, -1.0])}
    save_file(base, folder / "base/model.safetensors", metadata={"format": "pt"})
    (folder / "base/config.json").write_text('{"model_type": "llama"}')
    (folder / "adapter/adapter_config.json").write_text(json.dumps(config))
    named = {f"base_model.model.w.{name}": tensor for name, tensor in weights.items()}
    save_file(named, folder / "adapter/adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "out").mkdir()
    merge(folder / "base", folder / "adapter", folder / "out", None)
    return tensors(folder / "out")["w.bias" if bias else "w.weight"]


def test_ia3_by_hand(tmp_path):
    """l = (2, -1) on the outputs: rows times 2 and -1, the bias too; l = (1, 0, 2, 1) on the inputs: columns."""
    outputs = {"ia3_l": torch.tensor([[2.0], [-1.0]])}
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    rows = by_hand(tmp_path / "a", {"peft_type": "IA3"}, outputs)
    assert rows.tolist() == [[2, 4, 6, 8], [-5, -6, -7, -8]]
    assert by_hand(tmp_path / "b", {"peft_type": "IA3"}, outputs, bias=True).tolist() == [2, 1]
    columns = by_hand(tmp_path / "c", {"peft_type": "IA3"}, {"ia3_l": torch.tensor([[1.0, 0.0, 2.0, 1.0]])})
    assert columns.tolist() == [[1, 0, 6, 4], [5, 0, 14, 8]]


def test_oft_by_hand(tmp_path):
    """Blocks of 2 with Q = [[0, q], [-q, 0]]: (I - Q)(I + Q)^-1 = [[1 - q^2, -2q], [2q, 1 - q^2]] / (1 + q^2).

    peft's solve(I + Q, I - Q) from the left is that; its W' = W R^T per block. q = 1 and 0: R_1 = [[0, -1], [1, 0]], so
    columns (a, b) become (-b, a); R_2 = I.
    """
    config = {"peft_type": "OFT", "use_cayley_neumann": False, "oft_block_size": 2}
    turned = by_hand(tmp_path, config, {"oft_R.weight": torch.tensor([[1.0], [0.0]])})
    assert turned.tolist() == [[-2, 1, 3, 4], [-6, 5, 7, 8]]


def test_neumann_series_by_hand():
    """Q = [[0, 1/2], [-1/2, 0]], Q^2 = -I/4, Q^3 = -Q/4, Q^4 = I/16: I + 2Q + 2Q^2 + 2Q^3 + Q^4 of 5 terms."""
    (series,) = rotations(torch.tensor([[0.5]]), 2, 5, None)
    assert series.tolist() == [[1 - 0.5 + 0.0625, 0.75], [-0.75, 1 - 0.5 + 0.0625]]
    # held to the length 0.5 (Frobenius: sqrt 2 * 0.5 = 0.707 -> 0.5): Q of 0.3536
    (held,) = rotations(torch.tensor([[0.5]]), 2, 2, 0.5)
    assert held[0, 1].item() == pytest.approx(2 * 0.5 / 2**0.5, rel=1e-6)


def test_vera_by_hand(tmp_path):
    """delta = diag(b) B diag(d) A on a (2, 4) weight: r = 1, A = (1, 2, 3, 4, 9) cut to 4, B = (1, -1, 9) cut to 2.

    b = (2, 3), d = 10: delta = (20, -30)^T (1, 2, 3, 4).
    """
    tiny_model("llama", hidden_size=4, num_attention_heads=1, num_key_value_heads=1, head_dim=2,
               num_hidden_layers=1).save_pretrained(tmp_path)  # fmt: skip
    module = "base_model.model.model.layers.0.self_attn.q_proj"  # (2, 4)
    config = {"peft_type": "VERA", "r": 1, "projection_prng_key": 0, "save_projection": True}
    found, pairs = as_lora(config, {
        f"{module}.vera_lambda_b": torch.tensor([2.0, 3.0]), f"{module}.vera_lambda_d": torch.tensor([10.0]),
        "base_model.vera_A": torch.tensor([[1.0, 2, 3, 4, 9]]), "base_model.vera_B": torch.tensor([[1.0], [-1], [9]]),
    }, tmp_path)  # fmt: skip
    delta = pairs[f"{module}.lora_B.weight"] @ pairs[f"{module}.lora_A.weight"]
    assert delta.tolist() == [[20, 40, 60, 80], [-30, -60, -90, -120]]
    assert (found["peft_type"], found["lora_alpha"], found["r"]) == ("LORA", 1, 1)
    assert pairs.keys() == {f"{module}.lora_A.weight", f"{module}.lora_B.weight"}


def test_vera_draws_what_peft_has_drawn(tmp_path):
    """Without A and B in its file the adapter is written as the same LoRA, bit for bit, as with them."""
    made(tmp_path, "llama", "vera", r=6, projection_prng_key=7)
    canonical(tmp_path / "adapter", tmp_path / "with", base=tmp_path / "base")
    file = tmp_path / "adapter/adapter_model.safetensors"
    own = load_file(file)
    assert own.pop("base_model.vera_A").shape == (6, 96)
    assert own.pop("base_model.vera_B").shape == (96, 6)
    save_file(own, file)
    edit(tmp_path / "adapter/adapter_config.json", save_projection=False)
    canonical(tmp_path / "adapter", tmp_path / "without", base=tmp_path / "base")
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("with", "without"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("kind", "change", "problem"), [
    ("IA3", {"ia3_l": torch.ones(3, 1)}, r"w.weight: shape \[3, 1\], in the base \[2, 4\]"),
    ("IA3", {"ia3_l": torch.ones(2, 1, 1, 1)}, "only linear layers are merged"),
    ("IA3", {}, "no tensor of IA3 in it"),
    ("OFT", {"oft_R.weight": torch.ones(3, 1)}, r"w.weight: shape \[3, 1\], in the base \[2, 4\]"),
    ("OFT", {"oft_R.weight": torch.ones(1, 2)}, "not the triangles of square blocks"),
    ("OFT", {"oft_embedding_R.weight": torch.ones(1, 1), "oft_R.weight": torch.ones(2, 1)}, "only linear layers"),
    ("VERA", {"vera_lambda_b": torch.ones(2)}, "is written as LoRA first"),
    ("LOHA", {"hada_w1_a": torch.ones(2, 1)}, "only LORA, IA3, OFT are merged"),
])  # fmt: skip
def test_what_is_not_merged_is_named(tmp_path, kind, change, problem):
    with pytest.raises(RecipeError, match=problem):
        by_hand(tmp_path, {"peft_type": kind, "use_cayley_neumann": False}, change or {"x": torch.ones(1)})


def test_vera_needs_its_own_base(tmp_path):
    made(tmp_path, "llama", "vera", r=6)
    with pytest.raises(RecipeError, match="VeRA is written as LoRA beside its base"):
        canonical(tmp_path / "adapter", tmp_path / "canon")
    tiny_model("gpt2").save_pretrained(tmp_path / "other")
    with pytest.raises(RecipeError, match=r"the base .*other has no such layer"):
        canonical(tmp_path / "adapter", tmp_path / "canon", base=tmp_path / "other")
    file = tmp_path / "adapter/adapter_model.safetensors"
    half = {name: tensor for name, tensor in load_file(file).items() if not name.endswith("q_proj.vera_lambda_d")}
    save_file(half, file)
    with pytest.raises(RecipeError, match=r"a vector is missing: .*q_proj"):
        canonical(tmp_path / "adapter", tmp_path / "canon", base=tmp_path / "base")


def test_an_adapter_that_is_not_lora_stays_as_it_is(tmp_path):
    """Canonical is a copy, with the reason; nothing but peft serves it, and its merge is served by all."""
    made(tmp_path, "llama", "oft", oft_block_size=8)
    done = canonical(tmp_path / "adapter", tmp_path / "canon")
    assert done.leftover == (
        "peft_type: OFT turns what layers get, and engines read LoRA; merge instead (form: merged)",
    )
    assert (done.rank, done.modules) == (0, 14)
    name = "adapter_model.safetensors"
    assert (tmp_path / "canon" / name).read_bytes() == (tmp_path / "adapter" / name).read_bytes()
    assert len(read_adapter(tmp_path / "canon").changes) == 14
