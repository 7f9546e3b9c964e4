"""Texts for a tokenizer of single letters that fits the model of wave.py."""

from __future__ import annotations

from typing import Any

from tests.parity.wave import VOCABULARY

TEXTS = ["the fan stops", "methane above one percent", "no", "ventilate and measure again, then report it"]


def letters_tokenizer() -> Any:
    """A token a letter; `</s>` is 1, and nothing stands before a text."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<s>", *"abcdefghijklmnopqrstuvwxyz ,."]
    words += [f"<{number}>" for number in range(VOCABULARY - len(words))]
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", bos_token="<s>")
