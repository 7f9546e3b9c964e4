"""What bench_train.py trains: the workloads, the models and the peers, as literal tables, and the recipe of a workload."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SEED = 17
RANK, ALPHA, RATE = 16, 32, 2e-4  # of both sides; LoRA on every linear layer but the head, no dropout


@dataclass(frozen=True)
class Workload:
    """One comparison.

    Attributes:
        base: `smollm2`, or a row of SHAPES with random weights.
        data: `chats` (made by bench_train_prepare.py), or a data template of the repository.
        max_length: tokens of the longest sequence. batch: sequences (pairs) of an optimizer step, on both sides.
        steps: measured ones, without the first.
        ours: recipe keys beyond recipes/smollm2_cpu.yaml and the keys that both sides share; what its user would set.
        micro_batch: most sequences of a forward pass on either side, for what fits into memory.
        peers: rows of PEERS that are run unless others are asked for.
    """

    what: str
    base: str
    data: str
    max_length: int
    batch: int
    steps: int
    stage: str = "sft"
    ours: Mapping[str, Any] = field(default_factory=dict)
    micro_batch: int | None = None
    peers: tuple[str, ...] = ("trl", "trl_tuned")
    device: str = "cpu"


@dataclass(frozen=True)
class Peer:
    """A way to train with the peer. `arguments`: of SFTConfig or DPOConfig. `needs`: packages beyond TRL itself.

    `micro_batch`: sequences of a forward pass; None: the whole global batch. `own_dtype`: the base's weights lie in the
    run's dtype (as ours do), not in float32 under autocast, which is TRL's default.
    """

    what: str
    needs: tuple[str, ...] = ()
    micro_batch: int | None = None
    own_dtype: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)


PEERS = {
    "trl": Peer("TRL as it comes: the batch padded to its longest sequence, gradient checkpointing"),
    "trl_tuned": Peer(
        "TRL as well as it goes: one sequence at a time, so no padding; no checkpointing; the base in the run's dtype",
        micro_batch=1,
        own_dtype=True,
        arguments={"gradient_checkpointing": False},
    ),
    "trl_liger": Peer(
        "TRL with Liger's layers and FlashAttention, without padding",
        needs=("liger_kernel", "flash_attn"),
        own_dtype=True,
        arguments={"use_liger_kernel": True, "padding_free": True},
    ),
    "unsloth": Peer("Unsloth's model and trainer", needs=("unsloth",), micro_batch=1, own_dtype=True),
}

_QWEN3 = {
    "vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8, "max_position_embeddings": 40960,
    "rope_theta": 1_000_000.0,
}  # fmt: skip
# The fields of transformers' Qwen3Config, as the config.json of each model on the hub has them; `tiny` is for trying the script.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": _QWEN3 | {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
                            "num_attention_heads": 16, "tie_word_embeddings": True},
    "qwen3-8b": _QWEN3 | {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
                          "num_attention_heads": 32, "tie_word_embeddings": False},
    "qwen3-14b": _QWEN3 | {"hidden_size": 5120, "intermediate_size": 17408, "num_hidden_layers": 40,
                           "num_attention_heads": 40, "tie_word_embeddings": False},
    "tiny": _QWEN3 | {"vocab_size": 49152, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True},
}  # fmt: skip

_METAR = "meteorology/metar_decode"
_BY_TWO = {"train.micro_batch_size": 2}  # chats are long: all eight at once take more memory and hardly less time
_GPU_PEERS = ("trl", "trl_liger", "unsloth")
_CHECKPOINTED = {"train.gradient_checkpointing": True, "train.torch_compile": False, "data.padding_free": True}


def _gpu(shape: str, length: int, batch: int) -> Workload:
    what = f"{shape} (random weights), {batch} chats of up to {length:,} tokens a step"
    micro = max(1, 16384 // length)
    ours = _CHECKPOINTED | {"train.micro_batch_size": micro}
    return Workload(
        what, shape, "chats", length, batch, 10, ours=ours, micro_batch=micro, peers=_GPU_PEERS, device="cuda"
    )


WORKLOADS = {
    "chat": Workload("SmolLM2-135M, 8 chats of up to 1,024 tokens a step", "smollm2", "chats", 1024, 8, 3,
                     ours=_BY_TWO),
    "short": Workload("SmolLM2-135M, METAR decoding, 16 reports and answers a step", "smollm2", _METAR, 384, 16, 3),
    "dpo": Workload("SmolLM2-135M, DPO on the wording of answers, 8 pairs a step", "smollm2",
                    "finance/compliant_wording", 512, 8, 3, stage="dpo"),
    "tiny": Workload("a tiny Qwen3 shape, to try the script", "tiny", "chats", 256, 4, 3, ours=_BY_TWO),
    "tiny-dpo": Workload("a tiny Qwen3 shape, to try the script on pairs", "tiny", "finance/compliant_wording", 512, 4, 3,
                         stage="dpo"),
    "qwen3-0.6b-2k": _gpu("qwen3-0.6b", 2048, 16),
    "qwen3-0.6b-8k": _gpu("qwen3-0.6b", 8192, 8),
    "qwen3-0.6b-32k": _gpu("qwen3-0.6b", 32768, 2),
    "qwen3-8b-2k": _gpu("qwen3-8b", 2048, 16),
    "qwen3-8b-8k": _gpu("qwen3-8b", 8192, 8),
    "qwen3-8b-32k": _gpu("qwen3-8b", 32768, 2),
    "qwen3-14b-2k": _gpu("qwen3-14b", 2048, 16),
    "qwen3-14b-8k": _gpu("qwen3-14b", 8192, 8),
    "qwen3-14b-32k": _gpu("qwen3-14b", 32768, 2),
}  # fmt: skip


def overrides(workload: Workload, folder: Path, dtype: str, device: str, steps: int) -> dict[str, Any]:
    """What the recipe of a workload says beyond recipes/smollm2_cpu.yaml, by dotted key.

    Args:
        folder: holds `base/`, and for `chats` the two files of rows.
        steps: all of them, the first included.
    """
    keys: dict[str, Any] = {
        "name": "bench_train", "seed": SEED, "stage": workload.stage, "device": device,
        "model.name_or_path": str(folder / "base"), "model.gguf_file": None, "model.dtype": dtype,
        "lora.r": RANK, "lora.lora_alpha": ALPHA, "lora.lora_dropout": 0.0, "lora.target_modules": "all-linear",
        "data.max_length": workload.max_length,
        "train.global_batch_size": workload.batch, "train.max_steps": steps, "train.learning_rate": RATE,
        "train.lr_scheduler_type": "cosine", "train.warmup_ratio": 0.0, "train.save_steps": 0,
    }  # fmt: skip
    if workload.data == "chats":
        keys |= {
            "data.format": "messages", "data.train": str(folder / "chats.jsonl"),
            "data.eval": str(folder / "held_out.jsonl"),
        }  # fmt: skip
    else:
        place = ROOT / "data_templates" / workload.data
        keys |= {
            "data.template": f"{place}.yaml", "data.train": f"{place}.sample.jsonl", "data.split": {"eval_rows": 20},
        }  # fmt: skip
    return keys | dict(workload.ours)


def write_recipe(keys: Mapping[str, Any], file: Path) -> None:
    """The recipe of `overrides`, with its `output_dir` among the keys."""
    nested: dict[str, Any] = {"extends": str(ROOT / "recipes/smollm2_cpu.yaml")}
    for key, value in keys.items():
        *path, last = key.split(".")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    file.write_text(json.dumps(nested, indent=1) + "\n", encoding="utf-8")  # JSON is YAML
