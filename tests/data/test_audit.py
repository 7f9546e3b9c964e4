"""The audit of hand-made sets: every number worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune.data.audit import SHOWN_TOKENS, collect
from finetune.data.audit_types import AuditSource, Faults, Lengths, LongRow, SourceCounts, Subject
from finetune.data.chat import IGNORED, ChatEncoder, Example
from finetune.data.rows import Sample
from finetune.data.screen import Finding
from finetune.data.tokentext import TokenReader, TokenText
from tests.conftest import byte_tokenizer

NO = IGNORED
STOP = 257  # <|im_end|>


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def subject(tokenizer):
    return Subject("demo", tokenizer, 100, frozenset({STOP}), {"train": 3, "eval": 1}, {"recipe": "sha256:ab12"})


def example(length: int, where: str, trained: int = 2, end: int = STOP) -> Example:
    """`length` tokens `!` (id 0); the last `trained` of them are trained, the very last one is `end`."""
    ids = (0,) * (length - 1) + (end,)
    return Example(ids, (NO,) * (length - trained) + ids[length - trained :], where)


def conversation(question: str, answer: str, where: str) -> Sample:
    return Sample({}, ({"role": "user", "content": question}, {"role": "assistant", "content": answer}), where)


def test_numbers_by_hand(subject):
    """T45: two sources; samples of 10, 12 and 35 tokens to train on, one of 20 held out; 2, 3, 5 and 2 trained.

    Lengths 10, 12, 20, 35: nearest rank puts the median at the 2nd (12), 90 % and 99 % at the 4th (35); the mean is
    77 / 4 = 19.25, rounded to 19.2. 35 // 1 < 40, so a bar is one token wide.
    """
    sources = [
        AuditSource("a.jsonl", 4, [example(10, "a:1"), example(35, "a:2", 5)], [example(20, "a:3")], "messages", "MIT"),
        AuditSource("b.csv", 1, (item for item in [example(12, "b:1", 3)]), notes=["encoding gb18030"]),
    ]
    audit = collect(subject, sources, Faults([("a:4", "a:4: 120 tokens, 100 allowed")]))
    assert audit.sources == (
        SourceCounts("a.jsonl", "messages", "MIT", None, (), rows=4, samples=2, held_out=1, tokens=45, trained=7),
        SourceCounts(
            "b.csv", "", None, None, ("encoding gb18030",), rows=1, samples=1, held_out=0, tokens=12, trained=3
        ),
    )
    bins = tuple(int(length in (10, 12, 20, 35)) for length in range(36))
    assert audit.lengths == Lengths(4, 10, 12, 19.2, 35, 35, 35, 1, bins)
    assert audit.longest == (
        LongRow("a:2", 35, 5), LongRow("a:3", 20, 2), LongRow("b:1", 12, 3), LongRow("a:1", 10, 2),
    )  # fmt: skip
    assert (audit.turns, audit.untrained, audit.unstopped, audit.too_long) == (4, (), (), ())
    assert [(item.where, item.reason, item.kind) for item in audit.dropped] == [
        ("a:4", "120 tokens, 100 allowed", "… tokens, … allowed")
    ]
    assert (audit.failed, audit.reasons, audit.turn_ends) == (False, (), {"<|im_end|>": 4})


def test_bars_are_as_wide_as_few_of_them_need(subject):
    """Longest 99: 99 // 1 and 99 // 2 are 40 bars or more, 99 // 5 = 19 is not; 0-4, 5-9, ... 95-99."""
    audit = collect(subject, [AuditSource("a", 3, [example(n, f"a:{n}") for n in (4, 5, 99)])], Faults())
    assert audit.lengths is not None
    assert (audit.lengths.width, len(audit.lengths.bins)) == (5, 20)
    assert [i for i, samples in enumerate(audit.lengths.bins) if samples] == [0, 1, 19]


def test_verdict_names_every_reason(subject):
    """T45: what CI stops for. The second turn of a:3 ends in an untrained stop token."""
    two_turns = Example((1, STOP, 1, 2, STOP), (1, STOP, NO, 2, NO), "a:3")
    sources = [
        AuditSource("a", 3, [example(101, "a:1"), replace(example(5, "a:2"), labels=(NO,) * 5), two_turns]),
        AuditSource("empty", 7, []),
    ]
    refused = Finding("raw_overlap", "a:1", "e:1", "the same text", "refused")
    audit = collect(subject, sources, Faults(problems=["a:9: not JSON"], findings=[refused, refused]))
    assert audit.failed
    assert audit.reasons == (
        "problems that stop a run: 1",
        "refused by data.screen.train_eval_overlap: 2",
        "no sample is left of the 7 rows of empty",
        "samples without a trained token: 1",
        "samples with a trained turn that does not end in a stop token: 1",
        "samples longer than data.max_length: 1",
    )
    assert (audit.untrained, audit.unstopped, audit.too_long, audit.turns) == (("a:2",), ("a:3",), ("a:1",), 3)
    unchecked = collect(replace(subject, stop_ids=frozenset()), sources, Faults())
    assert (audit.turn_ends, unchecked.turn_ends, unchecked.unstopped) == ({"<|im_end|>": 2}, None, ())
    assert collect(subject, [], Faults()).reasons == ("no sample to train on",)


def test_screening_is_counted_by_group_and_dropped_rows_once(subject):
    """T45: two copies dropped (one with an e-mail address too), one leak reported, one kind looked for in vain."""
    findings = [
        Finding("email", "a:2", "", "message 1 (user): … (7 characters)", "dropped"),
        Finding("raw_duplicate", "a:2", "a:1", "the same text", "dropped"),
        Finding("normalised_duplicate", "a:3", "a:1", "the same but for case", "dropped"),
        Finding("prompt_overlap", "a:1", "e:1", "the same prompt, another answer", "reported"),
    ]
    counts = {
        "raw_duplicate": 1,
        "normalised_duplicate": 1,
        "prompt_overlap": 1,
        "raw_overlap": 0,
        "email": 1,
        "phone": 0,
    }
    audit = collect(subject, [AuditSource("a", 3, [example(10, "a:1")])], Faults(findings=findings, counts=counts))
    assert audit.counts == {
        "duplicates": {"raw_duplicate": 1, "normalised_duplicate": 1},
        "leaks": {"raw_overlap": 0, "prompt_overlap": 1},
        "personal_data": {"email": 1, "phone": 0},
        "secrets": {},
    }
    assert [(item.where, item.kind) for item in audit.dropped] == [("a:2", "email"), ("a:3", "normalised_duplicate")]
    assert not audit.failed


def test_tokens_of_a_sample_as_a_reader_sees_them(tokenizer):
    """`é` is two bytes, so two tokens and one piece; the stop token of the user's turn is not trained, so not marked."""
    item = ChatEncoder(tokenizer).encode(conversation("é", "ok", "f:1"))[0]
    texts = TokenReader(tokenizer, {STOP}).read(item)
    letters = tokenizer.convert_tokens_to_ids
    start = TokenText((256,), "<|im_start|>", trained=False, control=True, stop=False)
    line = TokenText((letters("Ċ"),), "\n", trained=False, control=False, stop=False)

    def plain(word: str, trained: bool = False) -> list[TokenText]:
        return [TokenText((letters(c),), c, trained, control=False, stop=False) for c in word]

    assert list(texts) == [
        start, *plain("user"), line,
        TokenText((letters("Ã"), letters("©")), "é", trained=False, control=False, stop=False),
        TokenText((STOP,), "<|im_end|>", trained=False, control=True, stop=False), line,
        start, *plain("assistant"), line, *plain("ok", trained=True),
        TokenText((STOP,), "<|im_end|>", trained=True, control=True, stop=True), line,
    ]  # fmt: skip
    assert "".join(text.text for text in texts) == tokenizer.decode(list(item.ids))


def test_half_a_character_and_a_label_inside_one_stay_apart(tokenizer):
    """Bytes C3 A9 are `é`: with only the second trained they are two tokens, each shown as what it is alone."""
    first, second = tokenizer.convert_tokens_to_ids(["Ã", "©"])
    texts = TokenReader(tokenizer, {STOP}).read(Example((first, second), (NO, second), "f:1"))
    assert [(text.ids, text.trained) for text in texts] == [((first,), False), ((second,), True)]


def test_the_space_before_a_word_is_shown_where_decoders_drop_it():
    """A Metaspace decoder drops the space of the first token it gets: token by token all spaces would be lost."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "▁dry": 1, "▁air": 2, "s": 3}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.decoder = decoders.Metaspace(prepend_scheme="always")
    item = Example((1, 2, 3, 2), (NO, NO, 3, 2), "f:1")
    reader = TokenReader(PreTrainedTokenizerFast(tokenizer_object=inner), ())
    assert [text.text for text in reader.read(item)] == ["dry", " air", "s", " air"]
    assert [text.text for text in reader.read(item, 1)] == [" air", "s", " air"]


def test_the_same_samples_are_shown_whatever_the_order_and_faulty_ones_first(subject):
    """Four a source, by hash; a row without its stop token is always among them."""
    examples = [example(10 + n, f"a:{n}") for n in range(50)]
    faulty = example(90, "a:99", end=1)
    forward = collect(subject, [AuditSource("a", 51, [*examples, faulty])], Faults())
    backward = collect(subject, [AuditSource("a", 51, [faulty, *reversed(examples)])], Faults())
    assert len(forward.shown) == 4
    assert forward.shown == backward.shown
    assert forward.shown[0].where == "a:99"


def test_a_long_sample_loses_its_middle(subject):
    """The only sample gets all the room: half of it from the start, half from the end."""
    audit = collect(subject, [AuditSource("a", 1, [example(SHOWN_TOKENS + 100, "a:1")])], Faults())
    (shown,) = audit.shown
    assert (len(shown.head), shown.left_out, len(shown.tail)) == (SHOWN_TOKENS // 2, 100, SHOWN_TOKENS // 2)
    assert [text.stop for text in shown.tail[-2:]] == [False, True]
