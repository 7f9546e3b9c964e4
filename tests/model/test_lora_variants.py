"""Each variant of LoRA through its life: start, three steps, resumed, exported, merged, loaded again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune.checkpoint.tensors import load_tensors, save_tensors
from finetune.checkpoint.training import load_weights
from finetune.export.canon import canonical
from finetune.fullstate import full_optimizer, full_tensors, load_full_optimizer, trainable
from finetune.groups import parameter_groups
from finetune.lora_fa import down_halves
from finetune.model.adapter import add_adapter, initial_weights
from finetune.model.reference import as_base
from finetune.model.save import INITIAL, save_adapter
from finetune.optimizer import OPTIMIZERS
from finetune.recipe_peft import LoraSection
from finetune.recipe_train import TrainSection
from tests.conftest import byte_tokenizer
from tests.equivalence.tiny_models import tiny_model
from tests.export.made import IDS, Made, logits, merged_folder, reload

# What peft says about models that are merged right here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*lora_bias=True.*"),
    pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning"),
]
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 32, "hidden_size": 64}
SMALL = {"num_hidden_layers": 2}
TIED = SMALL | {"tie_word_embeddings": True}
ENDS = ["embed_tokens", "q_proj"]
FUSED = {"target_parameters": ("experts.gate_up_proj", "experts.down_proj")}
# name: architecture, its settings, `lora:`, `train:`
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "lora": ("llama", SMALL, {}, {}),
    "dropout": ("llama", SMALL, {"lora_dropout": 0.3}, {}),
    "rslora": ("llama", SMALL, {"use_rslora": True, "r": 3}, {}),
    "dora": ("llama", SMALL, {"use_dora": True}, {}),
    "gaussian": ("llama", SMALL, {"init_lora_weights": "gaussian"}, {}),
    "orthogonal": ("llama", SMALL, {"init_lora_weights": "orthogonal"}, {}),
    "mica": ("llama", SMALL, {"init_lora_weights": "mica"}, {}),
    "pissa": ("llama", SMALL, {"init_lora_weights": "pissa"}, {}),
    "pissa_niter": ("llama", SMALL, {"init_lora_weights": "pissa_niter_4"}, {}),
    "pissa, rslora, patterns": (
        "llama",
        SMALL,
        {"init_lora_weights": "pissa", "use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"k_proj": 3}},
        {},
    ),
    "olora": ("llama", SMALL, {"init_lora_weights": "olora"}, {}),
    "lora+": ("llama", SMALL, {}, {"loraplus_lr_ratio": 16.0}),
    "lora-fa": ("llama", SMALL, {}, {"optim": "lora_fa"}),
    "lora-fa, pissa": ("llama", SMALL, {"init_lora_weights": "pissa"}, {"optim": "lora_fa"}),
    "layers": ("llama", SMALL, {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]}, {}),
    "one list of layers": (
        "llama", SMALL, {"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"}, {},
    ),
    "patterns": ("llama", SMALL, {"rank_pattern": {"q_proj": 2, r"1\.mlp\.up_proj": 6}, "alpha_pattern": {"k_proj": 3}}, {}),
    "excluded": ("llama", SMALL, {"exclude_modules": ["down_proj", "layers.0.self_attn.v_proj"]}, {}),
    "whole modules": ("llama", SMALL, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}, {}),
    "tokens": ("llama", SMALL, {"target_modules": ["q_proj"], "trainable_token_indices": [5, 90]}, {}),
    "ends": ("llama", SMALL, {"target_modules": [*ENDS, "lm_head"]}, {}),
    "biases": ("opt", {}, {"target_modules": ["q_proj"], "bias": "all"}, {}),
    "biases of the adapted": ("opt", {}, {"target_modules": ["q_proj"], "bias": "lora_only"}, {}),
    "lora_bias": ("opt", {}, {"target_modules": ["q_proj", "fc1"], "lora_bias": True}, {}),
    "conv1d": ("gpt2", {}, {"target_modules": ["c_attn", "c_fc"]}, {}),
    "conv1d, all": ("gpt2", {}, {}, {}),
    "experts": ("qwen3-moe", SMALL | EXPERTS, FUSED | {"target_modules": ["q_proj"]}, {}),
    "experts alone, transposed": ("gpt-oss", SMALL, FUSED | {"target_modules": []}, {}),
    "tied, whole embedding": ("llama", TIED, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, {}),
    "tied, whole, as one": (
        "llama",
        TIED,
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {},
    ),
    "tied, tokens": ("llama", TIED, {"target_modules": ["q_proj"], "trainable_token_indices": [5, 90]}, {}),
    "tied, as one": ("llama", TIED, {"target_modules": ENDS, "ensure_weight_tying": True}, {}),
    "tied, as one, by the head": ("llama", TIED, {"target_modules": ["lm_head"], "ensure_weight_tying": True}, {}),
}  # fmt: skip
# Whether the merged model's two ends are one tensor; the base's word where they are not named.
STAYS_TIED = {"tied, whole embedding": False, "tied, whole, as one": None, "tied, tokens": None, "tied, as one": None}


class Life:
    """An adapter in training, as the loop has it, without its data."""

    def __init__(self, variant: str, seed: int = 7) -> None:
        architecture, changes, lora, train = VARIANTS[variant]
        self.train = TrainSection(**{"max_steps": 3, "learning_rate": 0.02, "weight_decay": 0.01} | train)  # type: ignore[arg-type]
        section = LoraSection(**{"r": 4, "lora_alpha": 8} | lora)
        assert section.conflicts() == []
        torch.manual_seed(seed + 100)  # another process finds the generator elsewhere
        kind = OPTIMIZERS[self.train.optim]
        self.base = tiny_model(architecture, **changes)
        self.model, self.coverage = add_adapter(self.base, section, 3, kind.freezes_down)
        self.initial = initial_weights(self.model, section)
        self.fresh = full_tensors(self.model) if self.initial is not None else None
        groups = parameter_groups(trainable(self.model), self.train, down_halves(self.model))
        self.optimizer = kind.build(groups, self.train)

    def steps(self, *numbers: int) -> None:
        self.model.train()
        for number in numbers:
            torch.manual_seed(number)
            self.model(IDS, labels=IDS).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.model.eval()

    def save(self, folder: Path, as_checkpoint: bool) -> None:
        source = SimpleNamespace(name="base", revision=None)
        tokenizer = byte_tokenizer()
        base: Any = SimpleNamespace(source=source, tokenizer=tokenizer)
        tensors = full_tensors(self.model) if as_checkpoint else None
        save_adapter(self.model, base, folder, trained=True, tensors=tensors, initial=self.initial)
        save_tensors(folder / "optimizer.safetensors", full_optimizer(self.model, self.optimizer))

    def take_up(self, folder: Path) -> None:
        load_weights(self.model, folder)
        load_full_optimizer(self.model, self.optimizer, load_tensors(folder / "optimizer.safetensors"))


# Ways to begin and to narrow that share all the code of others.
SLOW = (
    "gaussian", "pissa_niter", "lora-fa, pissa", "one list of layers", "excluded", "ends", "biases of the adapted",
    "conv1d, all", "tied, as one, by the head", "tied, whole, as one", "lora+", "layers",
)  # fmt: skip


@pytest.mark.parametrize("variant", [pytest.param(v, marks=pytest.mark.slow if v in SLOW else ()) for v in VARIANTS])
def test_life(variant, tmp_path):
    """The untrained adapter is the base (largest logit difference below 1e-5); 3 steps = 2 steps, files, 1 step, bit for
    bit; merged = adapter and loaded again below 1e-5; the base off the trained adapter is the base."""
    architecture, changes, _, _ = VARIANTS[variant]
    base = tiny_model(architecture, **changes)
    base.save_pretrained(tmp_path / "base")
    before = logits(base)
    life = Life(variant)
    assert float((logits(life.model.eval()) - before).abs().max()) < 1e-5
    life.steps(0, 1)
    life.save(tmp_path / "checkpoint", as_checkpoint=True)
    life.steps(2)
    resumed = Life(variant, seed=8)
    resumed.take_up(tmp_path / "checkpoint")
    resumed.steps(2)
    ours, theirs = full_tensors(life.model), full_tensors(resumed.model)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    tuned = logits(life.model)
    assert torch.equal(tuned, logits(resumed.model)) and float((tuned - before).abs().max()) > 1e-3
    life.save(tmp_path / "adapter", as_checkpoint=False)
    with torch.no_grad(), as_base(life.model, life.fresh):
        if "biases" not in variant:
            assert float((logits(life.model) - before).abs().max()) < 1e-5
    initial = tmp_path / "adapter" / INITIAL if life.initial is not None else None
    canonical(tmp_path / "adapter", tmp_path / "canon", initial)
    made = Made(tmp_path / "base", tmp_path / "canon", tuned, {})
    merged = merged_folder(made, tmp_path / "merged")
    again = reload(tmp_path / "merged")
    assert float((logits(again) - tuned).abs().max()) < 1e-5
    if variant in STAYS_TIED:
        assert merged.tied is STAYS_TIED[variant]
    stored = {name for file in (tmp_path / "merged").glob("*.safetensors") for name in load_tensors(file)}
    is_one = again.get_input_embeddings().weight is again.get_output_embeddings().weight
    assert again.config.tie_word_embeddings == is_one == ("lm_head.weight" not in stored)
