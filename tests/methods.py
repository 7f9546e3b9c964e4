"""Small settings of every PEFT method but LoRA, as overrides of the tiny recipe."""

from __future__ import annotations

METHODS: dict[str, tuple[str, ...]] = {
    "ia3": ("train.learning_rate=0.05",),
    "oft": ("oft.oft_block_size=8",),
    "vera": ("vera.r=8", "train.learning_rate=0.05"),
    "prompt_tuning": ("prompt_tuning.num_virtual_tokens=5", "data.max_length=128"),
    "prefix_tuning": ("prefix_tuning.num_virtual_tokens=5", "data.max_length=128"),
}
PROMPTED = ("prompt_tuning", "prefix_tuning")


def changes(kind: str) -> tuple[str, ...]:
    """The tiny recipe with this method in LoRA's place."""
    return ("lora=null", f"peft_type={kind}", *METHODS[kind])
