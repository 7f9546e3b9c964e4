"""One training run of a peer for bench_train.py, in the peer's own interpreter: needs trl and peft, nothing of this project.

    python scripts/bench_train_peer.py ASK.json      # written by bench_train.py

Prints `step N loss X` after each optimizer step; the last line is the peak of the process's memory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def peak_bytes(device: str) -> int:
    """Of this process at most: resident memory on a CPU, what the allocator held on a device."""
    if device != "cpu":
        import torch

        return torch.accelerator.memory.max_memory_reserved()
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage's peak begins with that of the process which started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def arguments_of(ask: dict[str, Any]) -> dict[str, Any]:
    """Fields of SFTConfig and DPOConfig: what both sides share, then what the peer's row and the workload say."""
    micro = ask["micro_batch"]
    shared = {
        "output_dir": ask["output"], "max_steps": ask["steps"], "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": ask["batch"] // micro, "learning_rate": ask["rate"], "lr_scheduler_type": "cosine",
        "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0, "bf16": ask["dtype"] == "bfloat16", "logging_steps": 1,
        "save_strategy": "no", "report_to": [], "disable_tqdm": True, "seed": ask["seed"], "max_length": None,
        "use_cpu": ask["device"] == "cpu", "dataloader_pin_memory": ask["device"] != "cpu",
        "train_sampling_strategy": "sequential", "remove_unused_columns": ask["stage"] == "sft",
    }  # fmt: skip
    kwargs: dict[str, Any] = {"dtype": ask["dtype"]} if ask["own_dtype"] else {}
    if ask["flash"]:
        kwargs["attn_implementation"] = "flash_attention_2"
    if kwargs:
        shared["model_init_kwargs"] = kwargs
    if ask["stage"] == "sft":
        shared["dataset_kwargs"] = {"skip_prepare_dataset": True}  # the rows are tokenised, with labels
    return shared | ask["arguments"]


def make_trainer(ask: dict[str, Any], rows: list[dict[str, Any]]) -> Any:
    if ask["peer"] == "unsloth":
        import unsloth  # noqa: F401  before the libraries that it patches
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback

    class Tell(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                print(f"step {state.global_step} loss {logs['loss']!r}", flush=True)

    model: Any = str(ask["base"])
    adapter = LoraConfig(
        r=ask["r"], lora_alpha=ask["alpha"], lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    if ask["peer"] == "unsloth":
        model, adapter = unsloth_model(ask), None
    import trl

    kind = trl.SFTTrainer if ask["stage"] == "sft" else pairs_trainer(trl)
    config = trl.SFTConfig if ask["stage"] == "sft" else trl.DPOConfig
    return kind(
        model=model, args=config(**arguments_of(ask)), train_dataset=Dataset.from_list(rows), peft_config=adapter,
        callbacks=[Tell()],
    )  # fmt: skip


def pairs_trainer(trl: Any) -> Any:
    """DPOTrainer on rows that are tokenised already."""

    class Trainer(trl.DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    return Trainer


def unsloth_model(ask: dict[str, Any]) -> Any:
    """As Unsloth's own notebooks make it."""
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(str(ask["base"]), max_seq_length=ask["max_length"], load_in_4bit=False)
    return FastLanguageModel.get_peft_model(
        model, r=ask["r"], lora_alpha=ask["alpha"], lora_dropout=0.0, target_modules=LINEAR,
        use_gradient_checkpointing="unsloth", random_state=ask["seed"],
    )  # fmt: skip


def main() -> None:
    ask = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in Path(ask["items"]).read_text(encoding="utf-8").splitlines()]
    trainer = make_trainer(ask, rows)
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(trainer.model, load_file(Path(ask["initial"]) / "adapter_model.safetensors"))
    trainer.train()
    trainer.model.save_pretrained(Path(ask["output"]) / "adapter")
    print(f"peak {peak_bytes(ask['device'])}", flush=True)


if __name__ == "__main__":
    main()
