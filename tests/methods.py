"""Small settings of every PEFT method but LoRA, as overrides of the tiny recipe."""

from __future__ import annotations

METHODS: dict[str, tuple[str, ...]] = {
    "ia3": ("train.learning_rate=0.05",),
    "oft": ("oft.oft_block_size=8",),
    "vera": ("vera.r=8", "vera.vera_dropout=0.1", "train.learning_rate=0.05"),
}


def changes(kind: str) -> tuple[str, ...]:
    """The tiny recipe with this method in LoRA's place."""
    return ("lora=null", f"peft_type={kind}", *METHODS[kind])
