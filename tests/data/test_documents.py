"""Plain text to ids: what begins and ends a document, pieces of long ones, control tokens in it, filling in the middle."""

from __future__ import annotations

import pytest

from finetune.data.chat import IGNORED
from finetune.data.documents import Document, DocumentEncoder, pieces
from finetune.data.fim import SPELLINGS, Fim
from finetune.data.rows import Sample
from finetune.errors import DataError, RecipeError
from tests.conftest import byte_tokenizer

START, END = 256, 257  # <|im_start|> and <|im_end|>, the byte tokenizer's bos and eos


def document(text: str, where: str = "a.txt:1") -> Sample:
    return Sample({"text": text}, ({"role": "text", "content": text},), where)


def byte_ids(text: str) -> list[int]:
    """One token a byte: printable ASCII keeps its order from 0 (!) on, what GPT-2 writes as Ā, ā, ... comes last."""
    tokenizer = byte_tokenizer()
    return tokenizer(text, add_special_tokens=False).input_ids


def without_chat_template():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    return tokenizer


def fitted(text: str, max_length: int = 100, too_long: str = "split", **settings):
    (result,) = DocumentEncoder(without_chat_template(), **settings).fit([document(text)], max_length, too_long)
    return result


def test_a_document_is_its_text_and_its_end():
    """`ab` is the bytes 64 and 65 (a is the 65th printable character), then eos; nothing stands before the first token."""
    (example,) = fitted("ab").examples
    assert example.ids == (64, 65, END)
    assert example.labels == (IGNORED, 65, END)
    assert example.where == "a.txt:1"


def test_what_the_tokenizer_puts_before_a_text_is_there_once_and_what_it_puts_behind_is_not():
    from tokenizers.processors import TemplateProcessing

    tokenizer = without_chat_template()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", START), ("<|im_end|>", END)]
    )
    (result,) = DocumentEncoder(tokenizer).fit([document("ab")], 100, "error")
    assert result.examples[0].ids == (START, 64, 65, END)
    assert result.examples[0].labels == (IGNORED, 64, 65, END)


def test_pieces_by_hand():
    """`abcdefg` and eos in pieces of 4: 64-67, then the last character again and the next three, and so on."""
    result = fitted("abcdefg", 4)
    assert [example.ids for example in result.examples] == [(64, 65, 66, 67), (67, 68, 69, 70), (70, END)]
    assert [example.labels for example in result.examples] == [
        (IGNORED, 65, 66, 67), (IGNORED, 68, 69, 70), (IGNORED, END),
    ]  # fmt: skip
    assert result.reasons == ("split",)


def test_a_cut_never_falls_inside_a_character():
    """A Chinese character is three bytes here, so three tokens: pieces of 8 hold two of them, and a third of none."""
    result = fitted("第一条安全", 8)
    ids = byte_ids("第一条安全")
    assert [example.ids for example in result.examples] == [
        tuple(ids[0:6]), tuple(ids[3:9]), tuple(ids[6:12]), (*ids[9:15], END),
    ]  # fmt: skip
    assert [example.labels.count(IGNORED) for example in result.examples] == [1, 3, 3, 3]
    decode = byte_tokenizer().decode
    assert [decode(example.ids[:6]) for example in result.examples] == ["第一", "一条", "条安", "安全"]


@pytest.mark.parametrize("max_length", [8, 9, 11, 16, 33])
def test_pieces_together_are_the_document(max_length):
    """Every token but the first is trained once, in order; eos once; no piece is longer than allowed."""
    text = "第一条 Safety first; <|im_end|> is text here, 安全第一。" * 3
    (whole,) = fitted(text, 1000).examples
    assert whole.ids.count(END) == 1 and whole.ids[-1] == END
    result = fitted(text, max_length)
    assert all(len(example.ids) <= max_length for example in result.examples)
    trained = [label for example in result.examples for label in example.labels if label != IGNORED]
    assert trained == list(whole.ids[1:])
    for example in result.examples[1:]:  # what is not trained is the end of the piece before
        context = example.labels.count(IGNORED)
        assert 1 <= context <= max_length // 2
        assert example.labels[:context] == (IGNORED,) * context
    ends = [example.ids[-1] for example in result.examples[:-1]]
    assert END not in ends


def test_pieces_where_no_border_of_characters_is_near():
    """Ten tokens of one character, pieces of 4: the cut is at a token, and one token is the context."""
    one = Document(list(range(10)), [(0, 1)] * 9, 0, False, False, False)
    found = pieces(one, 4, "f:1")
    assert [example.ids for example in found] == [(0, 1, 2, 3), (3, 4, 5, 6), (6, 7, 8, 9)]


def test_long_documents_are_refused_or_left_out_when_asked():
    refused = fitted("abcdefghij", 8, "error")
    assert refused.problems == ("a.txt:1: 11 tokens, data.max_length is 8; set data.too_long: split (or drop)",)
    assert not refused.examples
    dropped = fitted("abcdefghij", 8, "drop")
    assert (dropped.examples, dropped.reasons) == ((), ("too_long_dropped",))


def test_control_tokens_in_a_text():
    """Escaped they are the bytes of their spelling; refused where the recipe says so; left to act where it says that."""
    text = "a<|im_end|>b"
    escaped = fitted(text)
    assert escaped.examples[0].ids == (*byte_ids("a"), *byte_ids("<|im_")[:5], *byte_ids("end|>b"), END)
    assert escaped.reasons == ("escaped",)
    assert fitted(text, special_tokens_in_data="error").problems == (
        "a.txt:1: the text holds the tokenizer's control token '<|im_end|>'",
    )
    assert fitted(text, special_tokens_in_data="allow").examples[0].ids == (64, END, 65, END)


def test_another_token_may_end_a_document():
    assert fitted("ab", eos_token="<|im_start|>").examples[0].ids == (64, 65, START)
    with pytest.raises(DataError, match=r"cpt.eos_token: '</s>' is not a token of "):
        DocumentEncoder(without_chat_template(), eos_token="</s>")


PRE, SUF, MID = 258, 259, 260
SEED, CUTS = 16, ("a", "bcd", "ef")  # the third and fourth 8 bytes of sha256("16\nabcdef"), modulo 7, are 1 and 4


def with_fim_tokens():
    tokenizer = without_chat_template()
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPELLINGS[0])})
    return tokenizer


def test_fim_by_hand():
    """With seed 16 `abcdef` is cut before its characters 1 and 4 (see CUTS), so that the whole can be written out.

    With rate 1 every document is told in another order; with spm_rate 0 as prefix, suffix, middle (PSM), with 1 as
    suffix, prefix, middle (SPM): PRE SUF suffix MID prefix middle (arXiv 2207.14255, section 3).
    """
    drawn = Fim(1.0, 0.0, SEED).draw("abcdef")
    assert (drawn.prefix, drawn.middle, drawn.suffix) == CUTS
    prefix, middle, suffix = (tuple(byte_ids(part)) for part in CUTS)
    for spm_rate, told in (
        (0.0, (PRE, *prefix, SUF, *suffix, MID, *middle)),
        (1.0, (PRE, SUF, *suffix, MID, *prefix, *middle)),
    ):
        encoder = DocumentEncoder(with_fim_tokens(), fim=Fim(1.0, spm_rate, SEED))
        (result,) = encoder.fit([document("abcdef")], 100, "error")
        assert result.examples[0].ids == (*told, END)
        assert result.examples[0].labels == (IGNORED, *told[1:], END)
        assert result.reasons == ("fim",)


def test_fim_keeps_what_begins_a_text():
    from tokenizers.processors import TemplateProcessing

    tokenizer = with_fim_tokens()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", START)]
    )
    (result,) = DocumentEncoder(tokenizer, fim=Fim(1.0, 0.0, SEED)).fit([document("abcdef")], 100, "error")
    assert result.examples[0].ids[:3] == (START, PRE, 64) and result.examples[0].labels[:3] == (IGNORED, PRE, 64)


def test_fim_takes_the_share_asked_for_whatever_the_place_of_a_row():
    """Of 400 documents a quarter, of those a half as SPM (binomial: 100 and 50, three standard deviations 26 and 16)."""
    texts = [f"document number {i}" for i in range(400)]
    drawn = [Fim(0.25, 0.5, 3).draw(text) for text in texts]
    told = [one for one in drawn if one]
    assert abs(len(told) - 100) < 26 and abs(sum(one.spm for one in told) - 50) < 16
    assert all(
        one is None or one.prefix + one.middle + one.suffix == text for one, text in zip(drawn, texts, strict=True)
    )
    assert [Fim(0.25, 0.5, 3).draw(text) for text in reversed(texts)] == drawn[::-1]
    assert [Fim(0.25, 0.5, 4).draw(text) for text in texts] != drawn


def test_fim_that_would_not_fit_and_fim_without_tokens():
    """Six bytes and eos are 7 tokens, 10 with three more: of 8 tokens that is too much, so the document keeps its order."""
    encoder = DocumentEncoder(with_fim_tokens(), fim=Fim(1.0, 0.5, 0))
    (result,) = encoder.fit([document("abcdef")], 8, "error")
    assert result.examples[0].ids == (*byte_ids("abcdef"), END)
    assert result.reasons == ("fim_too_long",)
    with pytest.raises(RecipeError, match=r"cpt.fim_rate: the tokenizer of .* has no tokens for filling in the middle"):
        DocumentEncoder(without_chat_template(), fim=Fim(0.5, 0.5, 0))
    assert DocumentEncoder(without_chat_template(), fim=Fim(0.0, 0.5, 0)).fim is None


def test_fim_puts_no_space_before_a_part():
    """A tokenizer like SentencePiece writes a space before a text, not within it: before the prefix alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["</s>", "\n", "▁", *"abcdef", *SPELLINGS[4]])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")
    encoder = DocumentEncoder(tokenizer, fim=Fim(1.0, 0.0, SEED))
    (result,) = encoder.fit([document("abcdef")], 100, "error")
    tokens = tokenizer.convert_ids_to_tokens(result.examples[0].ids)
    assert tokens == ["▁<PRE>", "▁", "a", "▁<SUF>", "e", "f", "▁<MID>", "b", "c", "d", "</s>"]
