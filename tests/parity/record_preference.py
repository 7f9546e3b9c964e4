"""Records what TRL's preference trainers compute on the model and batches of formula_model.py.

pip install trl==1.16.0 datasets && TRL_EXPERIMENTAL_SILENCE=1 python -m tests.parity.record_preference

Losses that TRL takes over all tokens of a batch (`sft` beside dpo, the NLL of orpo), and conservative dpo, which TRL has as
`aot` only (sorted: with one pair there is nothing to sort), are recorded pair by pair: their mean is the mean over pairs.
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from tests.parity.formula_model import (
    LABELLED,
    PAD,
    PAIRS,
    SHORT_PROMPTS,
    fill_lora,
    grad_norm,
    lora_config,
    tiny_base,
)

RECORD = Path(__file__).with_name("preference.json")
BETA = 0.3
DPO = {
    "sigmoid": ({"loss_type": ["sigmoid"]}, False),
    "hinge": ({"loss_type": ["hinge"]}, False),
    "ipo": ({"loss_type": ["ipo"]}, False),
    "sigmoid_norm": ({"loss_type": ["sigmoid_norm"]}, False),
    "label_smoothing": ({"loss_type": ["aot"], "label_smoothing": 0.1}, True),
    "rpo": ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}, True),
}


def main() -> None:
    record = {"versions": {name: version(name) for name in ("trl", "torch", "transformers", "peft")}, "beta": BETA}
    record["dpo"] = {name: dpo(settings, one_by_one) for name, (settings, one_by_one) in DPO.items()}
    record["orpo"] = {
        "short prompts, pair by pair": orpo([[pair] for pair in SHORT_PROMPTS]),
        "odds ratio": orpo([PAIRS]),
    }
    record["simpo"] = simpo()
    record["kto"] = {
        "balanced": kto(1.0, 1.0),
        "weighted": kto(1.5, 0.7),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(RECORD.read_text(encoding="utf-8"))


def tokenizer():
    """Never used on text that counts: the batches are ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "c": 6}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def common(folder: str) -> dict:
    return {
        "output_dir": folder, "report_to": [], "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "beta": BETA, "max_length": None, "per_device_train_batch_size": 4, "disable_dropout": True,
    }  # fmt: skip


def dataset(*columns: str):
    from datasets import Dataset

    rows = {"prompt": ["a b", "b a"], "chosen": [" b", " c"], "rejected": [" c", " b"], "completion": [" b", " c"]}
    return Dataset.from_dict({c: [True, False] if c == "label" else rows[c] for c in columns})


def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def measured(model, batches, compute, metrics) -> dict:
    """Means over the batches: loss and metrics, and the norm of the mean gradient."""
    model.zero_grad()
    losses, logged = [], []
    for batch in batches:
        loss = compute(batch)
        (loss / len(batches)).backward()
        losses.append(float(loss))
        logged.append(metrics())
    mean = {name: sum(values[name] for values in logged) / len(logged) for name in logged[0]}
    return {"loss": sum(losses) / len(losses), "grad_norm": grad_norm(model), "metrics": mean}


def concatenated(pairs) -> dict[str, torch.Tensor]:
    rows = [(p, c) for p, c, _ in pairs] + [(p, r) for p, _, r in pairs]
    return {
        "input_ids": padded([p + a for p, a in rows], PAD),
        "attention_mask": padded([[1] * len(p + a) for p, a in rows], 0),
        "completion_mask": padded([[0] * len(p) + [1] * len(a) for p, a in rows], 0),
    }


def dpo(settings: dict, one_by_one: bool) -> dict:
    from trl import DPOConfig, DPOTrainer

    with tempfile.TemporaryDirectory() as folder:
        trainer = DPOTrainer(
            tiny_base(), args=DPOConfig(**common(folder), **settings), peft_config=lora_config(),
            train_dataset=dataset("prompt", "chosen", "rejected"), processing_class=tokenizer(),
        )  # fmt: skip
    fill_lora(trainer.model)
    trainer.model.train()
    names = (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/accuracies",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
    )
    return measured(
        trainer.model,
        [concatenated([pair]) for pair in PAIRS] if one_by_one else [concatenated(PAIRS)],
        lambda batch: trainer._compute_loss(trainer.model, batch, False),
        lambda: {name: trainer._metrics["train"][name][-1] for name in names},
    )


def sides(pairs) -> dict[str, torch.Tensor]:
    batch = {}
    for name, k in (("chosen", 1), ("rejected", 2)):
        rows = [(pair[0], pair[k]) for pair in pairs]
        batch[f"{name}_input_ids"] = padded([p + a for p, a in rows], PAD)
        batch[f"{name}_attention_mask"] = padded([[1] * len(p + a) for p, a in rows], 0)
        batch[f"{name}_labels"] = padded([[-100] * len(p) + a for p, a in rows], -100)
    return batch


def without_reference(trainer, batches) -> dict:
    fill_lora(trainer.model)
    trainer.model.train()
    seen: dict[str, float] = {}

    def compute(batch):
        loss, metrics = trainer.get_batch_loss_metrics(trainer.model, batch, "train")
        seen.update({name: value for name, value in metrics.items() if not name.startswith("logits/")})
        return loss

    return measured(trainer.model, [sides(pairs) for pairs in batches], compute, lambda: dict(seen))


def orpo(batches) -> dict:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    with tempfile.TemporaryDirectory() as folder:
        trainer = ORPOTrainer(
            tiny_base(), args=ORPOConfig(**common(folder)), peft_config=lora_config(),
            train_dataset=dataset("prompt", "chosen", "rejected"), processing_class=tokenizer(),
        )  # fmt: skip
    return without_reference(trainer, batches)


def simpo() -> dict:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    with tempfile.TemporaryDirectory() as folder:
        args = CPOConfig(**common(folder), loss_type="simpo", simpo_gamma=0.4, cpo_alpha=0.0)
        trainer = CPOTrainer(
            tiny_base(), args=args, peft_config=lora_config(),
            train_dataset=dataset("prompt", "chosen", "rejected"), processing_class=tokenizer(),
        )  # fmt: skip
    return without_reference(trainer, [PAIRS]) | {"gamma": 0.4}


def kto(desirable: float, undesirable: float) -> dict:
    from trl import KTOConfig, KTOTrainer

    with tempfile.TemporaryDirectory() as folder:
        args = KTOConfig(**common(folder), desirable_weight=desirable, undesirable_weight=undesirable)
        trainer = KTOTrainer(
            tiny_base(), args=args, peft_config=lora_config(),
            train_dataset=dataset("prompt", "completion", "label"), processing_class=tokenizer(),
        )  # fmt: skip
    fill_lora(trainer.model)
    trainer.model.train()
    answers = [answer for _, answer, _ in LABELLED]
    own = [(prompt, answer) for prompt, answer, _ in LABELLED]
    other = [(prompt, answers[i - 1]) for i, (prompt, _, _) in enumerate(LABELLED)]  # TRL: rotated by one
    batch = {"label": torch.tensor([label for _, _, label in LABELLED])}
    for prefix, rows in (("", own), ("KL_", other)):
        batch[f"{prefix}input_ids"] = padded([p + a for p, a in rows], PAD)
        batch[f"{prefix}attention_mask"] = padded([[1] * len(p + a) for p, a in rows], 0)
        batch[f"{prefix}completion_mask"] = padded([[0] * len(p) + [1] * len(a) for p, a in rows], 0)
    names = ("kl", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected")
    found = measured(
        trainer.model,
        [batch],
        lambda batch: trainer._compute_loss(trainer.model, batch, False),
        lambda: {name: trainer._metrics["train"][name][-1] for name in names},
    )
    return found | {"desirable_weight": desirable, "undesirable_weight": undesirable}


if __name__ == "__main__":
    main()
