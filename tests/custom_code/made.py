"""A base that comes with its own code: a full-size config.json, the code beside it, no weights and no tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

CODE = Path(__file__).parent / "model"
FILES = ("configuration_sandwich.py", "modeling_sandwich.py")
CONFIG = {
    "architectures": ["SandwichForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_sandwich.SandwichConfig",
        "AutoModelForCausalLM": "modeling_sandwich.SandwichForCausalLM",
    },
    "model_type": "sandwich", "vocab_size": 153376, "hidden_size": 1536, "intermediate_size": 6144,
    "num_hidden_layers": 26, "num_attention_heads": 12, "num_key_value_heads": 6, "max_position_embeddings": 32768,
    "rope_theta": 64000.0, "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 45892, "pad_token_id": 0,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip


def write_custom_base(folder: Path) -> Path:
    """The folder as a hub repository has it, without its weights."""
    folder.mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(CODE / name, folder / name)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2), encoding="utf-8")
    return folder
