"""Canonical adapters: another spelling of the same function, and an honest word where there is none."""

from __future__ import annotations

import json
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.errors import GateError, RecipeError
from finetune.export.adapterfile import clean_name, next_rank, residual_init
from finetune.export.canon import canonical
from tests.conftest import tiny_llama

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*:UserWarning"),  # what is tried here, peft warns of
    pytest.mark.filterwarnings("ignore:.*lora_bias=True.*"),
    pytest.mark.filterwarnings("ignore:.*have invalid shape.*lora_B.bias"),
]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
IDS = torch.arange(5, 45)[None]  # (1, 40)


def make(folder, base=None, seed=1, **settings):
    """A peft adapter on the tiny Llama with random A and B, saved; and its logits."""
    from peft import LoraConfig, get_peft_model

    settings = {"r": 8, "lora_alpha": 16, "target_modules": ATTENTION, "task_type": "CAUSAL_LM"} | settings
    model = get_peft_model(base or tiny_llama(259), LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name or "lora_B" in name or "lora_embedding" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
            elif parameter.requires_grad:
                parameter.mul_(1.1)
    model.save_pretrained(folder, save_embedding_layers=False)
    with torch.no_grad():
        return model.eval(), model(input_ids=IDS).logits


def logits(folder):
    from peft import PeftModel

    with torch.no_grad():
        return PeftModel.from_pretrained(tiny_llama(259), str(folder)).eval()(input_ids=IDS).logits


def settings_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


VARIANTS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 32}},
    "rank_and_alpha_of_one_layer": {
        "rank_pattern": {r"layers\.0\.self_attn\.o_proj": 16},
        "alpha_pattern": {r"^model\.layers\.1\.self_attn\.v_proj": 64, "v_proj": 3},
    },
    "rank_pattern_with_rslora": {"rank_pattern": {"k_proj": 3}, "use_rslora": True, "alpha_pattern": {"k_proj": 5}},
    "regex_targets": {"target_modules": r".*\.1\.self_attn\.(q|v)_proj"},
    "rank_12": {"r": 12},
    "alpha_not_an_integer": {"lora_alpha": 8.5},
    "layers_to_transform": {"layers_to_transform": [1]},
    "excluded": {"target_modules": "all-linear", "exclude_modules": r".*layers\.0\.mlp.*"},
    "embedding": {"target_modules": [*ATTENTION, "embed_tokens"]},
    "head": {"target_modules": [*ATTENTION, "lm_head"]},
    "dropout_and_bias_word": {"lora_dropout": 0.1, "bias": "all"},
    "mica": {"init_lora_weights": "mica"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_function_is_the_same(name, tmp_path):
    """Reloaded through peft, every variant answers as before, and its settings are the plain ones."""
    _, before = make(tmp_path / "a", **VARIANTS[name])
    done = canonical(tmp_path / "a", tmp_path / "b")
    after = logits(tmp_path / "b")
    assert done.leftover == ()
    assert float((after - before).abs().max()) < 1e-5
    with torch.no_grad():
        assert float((after - tiny_llama(259)(input_ids=IDS).logits).abs().max()) > 1e-3, "it must have an effect"
    settings = settings_of(tmp_path / "b")
    assert settings["r"] == settings["lora_alpha"] == done.rank and done.rank in (8, 16)
    assert (settings["use_rslora"], settings["rank_pattern"], settings["alpha_pattern"]) == (False, {}, {})
    assert (settings["layers_to_transform"], settings["exclude_modules"], settings["bias"]) == (None, None, "none")
    tensors = load_file(tmp_path / "b/adapter_model.safetensors")
    assert {tensor.shape[0] for key, tensor in tensors.items() if "_A" in key} == {done.rank}
    assert {tensor.shape[1] for key, tensor in tensors.items() if "_B" in key} == {done.rank}


def test_the_values_by_hand(tmp_path):
    """rsLoRA with r=4, alpha=6: s = 6 / sqrt(4) = 3, so B' = 3 B; four zero ranks behind make it 8."""
    make(tmp_path / "a", r=4, lora_alpha=6, use_rslora=True)
    canonical(tmp_path / "a", tmp_path / "b")
    old, new = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in "ab")
    key = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"
    assert torch.equal(new[key.format("B")][:, :4], 3 * old[key.format("B")])
    assert torch.equal(new[key.format("A")][:4], old[key.format("A")])
    assert not new[key.format("A")][4:].any() and not new[key.format("B")][:, 4:].any()
    assert new[key.format("B")].shape == (64, 8) and new[key.format("A")].shape == (8, 64)


@pytest.mark.parametrize(("rank", "wanted"), [(1, 8), (8, 8), (9, 16), (65, 128), (257, 320), (512, 512), (700, 700)])
def test_rank_steps(rank, wanted):
    assert next_rank(rank) == wanted


def test_targets_select_nothing_without_tensors(tmp_path):
    """A suffix would give layer 0 an adapter that the file does not hold; full names do not."""
    make(tmp_path / "a", layers_to_transform=[1], target_modules=["q_proj"])
    canonical(tmp_path / "a", tmp_path / "b")
    assert settings_of(tmp_path / "b")["target_modules"] == ["model.layers.1.self_attn.q_proj"]
    make(tmp_path / "c", target_modules=["v_proj", "q_proj"])
    canonical(tmp_path / "c", tmp_path / "d")
    assert settings_of(tmp_path / "d")["target_modules"] == ["q_proj", "v_proj"]


LEFT = {
    "use_dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "modules_to_save": {"modules_to_save": ["norm"]},
    "trainable_token_indices": {"trainable_token_indices": [3, 4]},
    "ensure_weight_tying": {"target_modules": [*ATTENTION, "embed_tokens"], "ensure_weight_tying": True},
}


@pytest.mark.parametrize("name", LEFT)
def test_what_pairs_cannot_say_is_copied_and_named(name, tmp_path):
    make(tmp_path / "a", **LEFT[name])
    done = canonical(tmp_path / "a", tmp_path / "b")
    assert [line.split(":")[0] for line in done.leftover] == [name]
    assert "merge instead (form: merged)" in done.leftover[0]
    assert settings_of(tmp_path / "b") == settings_of(tmp_path / "a")
    copies = [(tmp_path / folder / "adapter_model.safetensors").read_bytes() for folder in "ab"]
    assert copies[0] == copies[1]


def test_whole_tensors_without_a_word_in_the_settings_are_left_over(tmp_path):
    """A resized vocabulary: peft stores the embedding and says nothing of it in the settings."""
    make(tmp_path / "a")
    tensors = load_file(tmp_path / "a/adapter_model.safetensors")
    tensors["base_model.model.model.embed_tokens.weight"] = torch.zeros(300, 64)
    save_file(tensors, tmp_path / "a/adapter_model.safetensors")
    (line,) = canonical(tmp_path / "a", tmp_path / "b").leftover
    assert line.startswith("base_model.model.model.embed_tokens.weight: ") and "vocabulary" in line


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_initialisation_that_changed_the_base(init, tmp_path):
    """W0 - s B0 A0 + s B A on the untouched base, as one adapter of rank 2r; refused without B0 A0."""
    from peft import LoraConfig, get_peft_model

    settings = {"r": 8, "lora_alpha": 12, "target_modules": ATTENTION, "task_type": "CAUSAL_LM"}
    model = get_peft_model(tiny_llama(259), LoraConfig(init_lora_weights=init, **settings))
    model.save_pretrained(tmp_path / "initial")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
        before = model.eval()(input_ids=IDS).logits
    model.save_pretrained(tmp_path / "a")
    with pytest.raises(RecipeError, match=rf"init_lora_weights '{init}' changed the base's weights.*initial adapter"):
        canonical(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    done = canonical(tmp_path / "a", tmp_path / "b", initial=tmp_path / "initial")
    assert done.rank == 16 and settings_of(tmp_path / "b")["init_lora_weights"] is True
    assert float((logits(tmp_path / "b") - before).abs().max()) < 1e-4
    file = tmp_path / "initial/adapter_model.safetensors"
    tensors = load_file(file)
    dropped = next(iter(tensors))
    del tensors[dropped]
    del tensors[dropped.replace("lora_A", "lora_B")]
    save_file(tensors, file)
    with pytest.raises(RecipeError, match="not the beginning of"):
        canonical(tmp_path / "a", tmp_path / "c", initial=file)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "mica", "orthogonal", "gaussian", True, False])
def test_which_initialisations_change_the_base(init):
    """Asked of peft itself: the base's weights before and after the adapter is put on."""
    from peft import LoraConfig, get_peft_model

    base = tiny_llama(259)
    before = base.model.layers[0].self_attn.q_proj.weight.detach().clone()
    model = get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj"], init_lora_weights=init))
    after = model.base_model.model.model.layers[0].self_attn.q_proj.base_layer.weight
    assert residual_init(init) == (not torch.equal(before, after))


def test_initialisations_that_need_data_or_packages():
    """Read in peft 0.21: corda, lora_ga and loftq write base_layer.weight; eva sets B to 0 and leaves it."""
    assert [residual_init(init) for init in ("corda", "lora_ga", "loftq", "eva")] == [True, True, True, False]


@pytest.mark.parametrize(
    "name",
    ["_orig_mod.base_model.model.model.layers.0.q_proj.lora_A.default.weight",
     "base_model.model.model.layers.0._fsdp_wrapped_module.q_proj.lora_A.weight",
     "module.base_model.model.model.layers.0.q_proj.lora_A.weight"],
)  # fmt: skip
def test_names_of_wrappers_go(name):
    assert clean_name(name) == "base_model.model.model.layers.0.q_proj.lora_A.weight"


def test_the_tokenizer_comes_along_and_pickles_do_not(tiny_base, tmp_path):
    """T39, T46: modes follow the umask; what a server reads is there, training state is not."""
    make(tmp_path / "a")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "a" / file).write_bytes((tiny_base / file).read_bytes())
    (tmp_path / "a/training_args.bin").write_bytes(b"x")
    canonical(tmp_path / "a", tmp_path / "b")
    files = {file.name for file in (tmp_path / "b").iterdir()}
    assert files >= {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert "training_args.bin" not in files
    (tmp_path / "new").touch()
    mode = stat.S_IMODE((tmp_path / "new").stat().st_mode)
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "b").iterdir()} == {mode}


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path):
    """T38: a tensor that is not finite is named, and no folder is left."""
    make(tmp_path / "a")
    (tmp_path / "b").mkdir()
    with pytest.raises(RecipeError, match="is there already"):
        canonical(tmp_path / "a", tmp_path / "b")
    file = tmp_path / "a/adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "lora_B" in name)
    tensors[name][0, 0] = torch.inf
    save_file(tensors, file)
    with pytest.raises(GateError, match=r"lora_B\.weight is not finite"):
        canonical(tmp_path / "a", tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_what_is_no_adapter_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(RecipeError, match=r"not an adapter with adapter_config.json"):
        canonical(tmp_path / "a", tmp_path / "b")
    make(tmp_path / "c")
    settings = settings_of(tmp_path / "c") | {"peft_type": "LOHA"}
    (tmp_path / "c/adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(RecipeError, match="'LOHA'; only LORA"):
        canonical(tmp_path / "c", tmp_path / "b")
