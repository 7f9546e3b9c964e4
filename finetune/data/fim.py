"""Fill in the middle: a document cut in three and told in another order, so that the model learns to write into a gap.

Bavarian et al., "Efficient Training of Language Models to Fill in the Middle" (arXiv 2207.14255), sections 3 and 4: two
cuts drawn evenly over the characters; the parts as prefix, suffix, middle (PSM) or suffix, prefix, middle (SPM).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from finetune.errors import RecipeError

# How tokenizers spell the three tokens: before the prefix, before the suffix, before the middle.
SPELLINGS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
)


@dataclass(frozen=True)
class Fim:
    """How often documents are told so: `rate` of all, `spm_rate` of those as suffix, prefix, middle."""

    rate: float
    spm_rate: float
    seed: int

    def draw(self, text: str) -> Draw | None:
        """What becomes of a document, as a function of the seed and its text alone; None: it stays as it is.

        Not of its file and line: the same data in another folder, or in another order, is trained in the same way.
        """
        digest = hashlib.sha256(f"{self.seed}\n{text}".encode("utf-8", "surrogatepass")).digest()
        told, order, one, other = (int.from_bytes(digest[i : i + 8], "big") for i in range(0, 32, 8))
        if told >= self.rate * 2**64:
            return None
        first, second = sorted((one % (len(text) + 1), other % (len(text) + 1)))
        return Draw(text[:first], text[first:second], text[second:], order < self.spm_rate * 2**64)


@dataclass(frozen=True)
class Draw:
    """The three parts of a document; each may be empty. `spm`: the suffix goes first."""

    prefix: str
    middle: str
    suffix: str
    spm: bool


@dataclass(frozen=True)
class FimTokens:
    """Ids of the three tokens."""

    prefix: int
    suffix: int
    middle: int

    def told(self, spm: bool, prefix: list[int], middle: list[int], suffix: list[int]) -> list[int]:
        """The parts' ids in order: PRE prefix SUF suffix MID middle, or PRE SUF suffix MID prefix middle (section 3)."""
        if spm:
            return [self.prefix, self.suffix, *suffix, self.middle, *prefix, *middle]
        return [self.prefix, *prefix, self.suffix, *suffix, self.middle, *middle]


def fim_tokens(tokenizer: Any) -> FimTokens:
    """The tokenizer's own tokens.

    Raises:
        RecipeError: it has none of SPELLINGS; a token made up now would mean nothing to the model.
    """
    vocabulary = tokenizer.get_vocab()
    for names in SPELLINGS:
        if all(name in vocabulary for name in names):
            return FimTokens(*(vocabulary[name] for name in names))
    known = ", ".join(names[0] for names in SPELLINGS)
    raise RecipeError(
        f"cpt.fim_rate: the tokenizer of {tokenizer.name_or_path} has no tokens for filling in the middle (as {known}); "
        "set it to 0, or take a base that was trained with them"
    )
