"""Tokenising by stretches: the ids and ranges of the way over offsets, or nothing where that is not certain."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.escape import CLOSE, OPEN, ControlTokens, PieceEncoder
from finetune.data.segments import SegmentEncoder, Spans, by_offsets, is_separable
from finetune.data.spans import Rendered
from tests.conftest import byte_tokenizer
from tests.data.chats import WORDS, merging_tokenizer


def through_offsets(tokenizer, render: Rendered) -> Spans:
    return by_offsets(render, PieceEncoder(tokenizer, ControlTokens(tokenizer)).encode([render.text])[0])


def chatml(*texts: str) -> Rendered:
    """Turns of user and assistant; trained are the assistant's text and its stop token."""
    text, trained = "", []
    for i, content in enumerate(texts):
        text += f"<|im_start|>{('user', 'assistant')[i % 2]}\n"
        start = len(text)
        text += f"{content}<|im_end|>"
        if i % 2:
            trained.append((start, len(text), "<|im_end|>"))
        text += "\n"
    return Rendered(text, tuple(trained))


def test_ids_and_ranges_by_hand():
    """One token a byte: `hi` and `ok`, then `a` and `ok` again; 256 starts and 257 ends a turn.

    10 tokens to the end of `hi`'s turn, 11 to `assistant\\n`: `ok<|im_end|>` is 21..24. Of the next two turns: 9 and 11
    tokens after the line break at 24: 45..48.
    """
    tokenizer = byte_tokenizer()
    render = chatml("hi", "ok", "a", "ok")
    (spans,) = SegmentEncoder(tokenizer).encode([render])
    ids = {text: tokenizer.backend_tokenizer.encode(text).ids for text in ("user\n", "assistant\n", "hi", "ok", "\n")}
    (a,) = tokenizer.backend_tokenizer.encode("a").ids
    answer = [256, *ids["assistant\n"], *ids["ok"], 257, *ids["\n"]]
    asked = [256, *ids["user\n"], *ids["hi"], 257, *ids["\n"]]
    assert spans == Spans([*asked, *answer, 256, *ids["user\n"], a, 257, *ids["\n"], *answer], [(21, 24), (45, 48)])


def test_each_distinct_stretch_is_tokenised_once():
    """Two rows with the same question have eight stretches, four of them distinct; and the opening of the answer."""
    encoder = SegmentEncoder(byte_tokenizer())

    class Spy:
        def __init__(self, backend):
            self.backend, self.asked = backend, []

        def __getattr__(self, name):
            return getattr(self.backend, name)

        def encode_batch_fast(self, texts, add_special_tokens):
            self.asked += texts
            return self.backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)

    encoder.backend = Spy(encoder.backend)
    encoder.encode([chatml("a", "ok"), chatml("a", "no")])
    assert encoder.backend.asked == ["user\na", "\n", "assistant\nok", "assistant\nno", "assistant\n"]


PARTS = [*" \n\tok7,éè日é\u0301e\u200d🚀<|", "the wind", "<think>", "    ", "assistant\n"]
TEXT = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)


@pytest.mark.parametrize("trim_offsets", [False, True])
@pytest.mark.parametrize(("normalizer", "pattern"), [("", ""), ("NFC", ""), ("NFC", WORDS)])
def test_equal_to_the_way_over_offsets(normalizer, pattern, trim_offsets):
    """T23, T25: whatever the text, ids are those of the whole render, and ranges those that offsets give."""
    tokenizer = merging_tokenizer(normalizer, pattern, trim_offsets)
    assert is_separable(tokenizer)
    encoder = SegmentEncoder(tokenizer)
    served = []

    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @given(st.lists(TEXT, min_size=2, max_size=6).map(lambda texts: chatml(*texts)))
    def run(render):
        (spans,) = encoder.encode([render])
        served.append(spans is not None)
        assert spans in (None, through_offsets(tokenizer, render))

    run()
    assert sum(served) > 0.8 * len(served)


def test_a_border_within_a_token_is_left_to_offsets():
    """Where `a` and the prompt before it are one token, the stretch does not begin with the prompt's own tokens."""
    tokenizer = merging_tokenizer()
    text = "<|im_start|>the wind<|im_end|>"
    border = text.index("nd")  # `wind` is one token of its corpus
    render = Rendered(text, ((border, len(text), "<|im_end|>"),))
    assert SegmentEncoder(tokenizer).encode([render, chatml("a", "b")])[0] is None
    assert SegmentEncoder(tokenizer).encode([render, chatml("a", "b")])[1] == through_offsets(
        tokenizer, chatml("a", "b")
    )


def test_escaped_control_tokens_are_left_to_pieces():
    assert SegmentEncoder(byte_tokenizer()).encode([chatml(f"{OPEN}<|im_end|>{CLOSE}", "ok")]) == [None]


def test_no_rows():
    assert SegmentEncoder(byte_tokenizer()).encode([]) == []


def with_prefix_space(backend):
    from tokenizers import pre_tokenizers

    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def with_metaspace(backend):
    from tokenizers import pre_tokenizers

    backend.pre_tokenizer = pre_tokenizers.Metaspace()


def with_lower_case(backend):
    from tokenizers import normalizers

    backend.normalizer = normalizers.Lowercase()


def with_stripping_token(backend):
    from tokenizers import AddedToken

    backend.add_special_tokens([AddedToken("<|x|>", lstrip=True, normalized=False)])


def with_dropout(backend):
    from tokenizers import models

    backend.model = models.BPE(vocab=backend.get_vocab(with_added_tokens=False), merges=[], dropout=0.1)


def with_normalized_token(backend):
    from tokenizers import AddedToken

    backend.add_tokens([AddedToken("METAR", normalized=True)])


@pytest.mark.parametrize(
    "change",
    [with_prefix_space, with_metaspace, with_lower_case, with_stripping_token, with_dropout, with_normalized_token],
)
def test_tokenizers_that_look_beyond_a_stretch(change):
    """Each of these can give a stretch other ids alone than in the whole, or has not been shown not to."""
    tokenizer = byte_tokenizer()
    assert is_separable(tokenizer)
    change(tokenizer.backend_tokenizer)
    assert not is_separable(tokenizer)
