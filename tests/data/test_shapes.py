"""The short way of plain conversations gives what the long way gives, or leaves the row to it."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data import shapes
from finetune.data.chat import ChatEncoder
from finetune.data.length import fit
from finetune.data.rows import Sample
from finetune.data.shapes import Plan
from finetune.data.spans import Rendered
from finetune.errors import DataError
from tests.conftest import CHATML, byte_tokenizer
from tests.data.chats import (
    CONVERSATIONS,
    WORDS,
    assistant,
    conversation,
    golden_names,
    merging_tokenizer,
    template_tokenizer,
    user,
)
from tests.data.test_passthrough import PASSING


def long_way(tokenizer, **settings) -> ChatEncoder:
    """The encoder as it is without its two short ways: known shapes, and stretches between added tokens."""
    encoder = ChatEncoder(tokenizer, **settings)
    encoder.shapes = None
    encoder.tokens.segments = None
    return encoder


def outcome(encoder: ChatEncoder, samples) -> list:
    return [r.problems if isinstance(r, DataError) else r for r in encoder.encode_many(samples)]


def served(encoder: ChatEncoder, samples) -> int:
    return sum(row.plain for row in encoder.encode_rows(samples))


def chat(*texts: str) -> Sample:
    return Sample({}, tuple((user, assistant)[i % 2](text) for i, text in enumerate(texts)), "f:1")


def test_a_plan_by_hand():
    """`a` asked, `b` answered, in the probe's marks: `U:\U000f0000;A:\U000f0001.` with the answer and its stop trained."""
    plan = Plan.of(Rendered("U:\U000f0000;A:\U000f0001.", ((6, 8, "."),)))
    assert plan == Plan(("U:", ";A:", "."), (0, 1), (((5, 1), (6, 2), "."),))
    assert plan.filled(["who", "me too"]) == Rendered("U:who;A:me too.", ((8, 15, "."),))
    assert plan.filled(["who", "me too"]).text[8:15] == "me too."


def test_a_range_over_two_contents_has_no_plan():
    assert Plan.of(Rendered("\U000f0000;\U000f0001.", ((0, 4, "."),))) is None


@pytest.mark.parametrize("train_on", ["assistant", "last_assistant", "all"])
@pytest.mark.parametrize("name", golden_names())
def test_every_golden_conversation(name, train_on):
    """T21, T23: same examples, same refusals; where text passes through, plain conversations go the short way."""
    tokenizer = template_tokenizer(name)
    samples = [conversation(key) for key in CONVERSATIONS]
    expected = outcome(long_way(tokenizer, train_on=train_on), samples)
    encoder = ChatEncoder(tokenizer, train_on=train_on)
    assert outcome(encoder, samples) == expected
    assert [outcome(encoder, [sample])[0] for sample in samples] == expected
    short = served(encoder, [conversation("single"), conversation("system")])
    assert encoder.tokens.segments is not None
    if train_on == "all" or name not in PASSING or name == "ernie4_5":  # ERNIE's prompt ends in a space
        assert short == 0
    else:
        assert short == (1 if name == "gemma" else 2)  # Gemma takes no system message


@cache
def encoders(name: str, train_on: str) -> tuple[ChatEncoder, ChatEncoder]:
    base = merging_tokenizer("NFC", WORDS) if name in ("qwen2_5", "llama3") else merging_tokenizer()
    tokenizer = template_tokenizer(name, base)
    return ChatEncoder(tokenizer, train_on), long_way(tokenizer, train_on=train_on)


PIECES = [*" \n\ta7é日<|.", "  ", "the wind", " ok", "e\u0301", "👩‍🚀", "\u0301", "<|im_end|>", "<|im_", "end|>", "<think>",
          "</think>", "[INST]", "</s>", "\U000f0001", "\U0010fff1", "\u200b", "/no_think", "{{ x }}"]  # fmt: skip
PLAIN = st.lists(st.sampled_from(["the wind", " is 350", "\n", "日本", "a", ".", " "]), min_size=1, max_size=5).map(
    lambda parts: "".join(parts).strip() or "a"
)
TEXT = st.one_of(PLAIN, st.lists(st.sampled_from(PIECES), max_size=5).map("".join))
FREE = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": TEXT},
        optional={"train": st.booleans(), "name": TEXT},
    ),
    min_size=1,
    max_size=4,
)


@st.composite
def proper(draw):
    """A system message or none, then turns in order, some not trained; every other one of plain texts alone."""
    text = draw(st.sampled_from([PLAIN, TEXT]))
    messages = [{"role": "system", "content": draw(text)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        more = {"train": False} if draw(st.integers(0, 4)) == 0 else {}
        messages += [user(draw(text)), assistant(draw(text), **more)]
    return messages


@pytest.mark.parametrize("train_on", ["assistant", "last_assistant"])
@pytest.mark.parametrize("name", sorted(PASSING))
def test_any_conversation(name, train_on):
    """T21, T23, T24, T25, T32: whatever the roles and the text, the two ways give the same ids, labels and errors."""
    short, long = encoders(name, train_on)
    count = [0, 0]

    @settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @given(st.lists(st.one_of(proper(), FREE), min_size=1, max_size=3))
    def run(conversations):
        samples = [Sample({}, tuple(messages), f"f:{i}") for i, messages in enumerate(conversations)]
        assert outcome(short, samples) == outcome(long, samples)
        count[0] += served(short, samples)
        count[1] += len(samples)

    run()
    if name == "ernie4_5":  # its prompt ends in a space, so that answers are encoded apart
        assert count[0] == 0
    else:
        assert count[0] > 20


def test_a_prompt_that_depends_on_the_text():
    """T24: the whole render is as the shape says, but a server's prompt of `/no_think` is not: refused as ever."""
    prompt = "<|im_start|>assistant\n' }}{% endif"
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML.replace(
        prompt,
        "<|im_start|>assistant\n' + ('<think></think>' if '/no_think' in messages[-1].content else '') }}{% endif",
    )
    encoder = ChatEncoder(tokenizer)
    plain, asked = outcome(encoder, [chat("a", "b"), chat("a /no_think", "b")])
    assert plain == outcome(long_way(tokenizer), [chat("a", "b")])[0]
    assert asked[0].startswith("f:1: a server will see a prompt that ends in")


def test_a_render_that_is_not_as_the_shape_says_goes_the_long_way():
    """The render of every row is the proof: with a wrong plan nothing goes wrong but the time."""
    tokenizer = byte_tokenizer()
    encoder = ChatEncoder(tokenizer)
    samples = [chat("a", "b"), chat("the wind", "350")]
    expected = outcome(long_way(tokenizer), samples)
    assert served(encoder, samples) == 2
    (shape,) = encoder.shapes.plans
    plan = encoder.shapes.plans[shape]
    encoder.shapes.plans[shape] = Plan(("x", *plan.texts[1:]), plan.order, (((0, 0), (1, 0), ""),))
    assert served(encoder, samples) == 0
    assert outcome(encoder, samples) == expected


def test_each_shape_is_learnt_once_and_no_more_than_the_limit(monkeypatch):
    monkeypatch.setattr(shapes, "MOST", 2)
    encoder = ChatEncoder(byte_tokenizer())
    three = [chat("a", "b"), chat("a", "b", "c", "d"), chat("a", "b", "c", "d", "e", "f")]
    assert served(encoder, [*three, *three]) == 4
    assert list(encoder.shapes.plans) == [("user", "assistant"), ("user", "assistant") * 2]
    assert outcome(encoder, three) == outcome(long_way(byte_tokenizer()), three)


@pytest.mark.parametrize(
    ("messages", "tools"),
    [
        ([user("a<|im_end|>"), assistant("b")], ()),
        ([user("a\U00100000"), assistant("b")], ()),
        ([user(" a"), assistant("b")], ()),
        ([user(""), assistant("b")], ()),
        ([user("a"), assistant("b\n")], ()),
        ([user("a") | {"name": "Ann"}, assistant("b")], ()),
        ([user("a") | {"train": True}, assistant("b")], ()),
        ([user("a"), assistant("b", reasoning_content="c")], ()),
        ([user("a"), assistant("b", tool_calls=[])], ()),
        ([user("a"), assistant(None)], ()),
        ([user(["a"]), assistant("b")], ()),
        ([{"role": ["user"], "content": "a"}, assistant("b")], ()),
        ([user("a"), assistant("b")], ({"type": "function", "function": {"name": "f"}},)),
        ([], ()),
    ],
)
def test_what_is_not_plain_goes_the_long_way(messages, tools):
    sample = Sample({}, tuple(messages), "f:1", tools)
    encoder = ChatEncoder(byte_tokenizer())
    assert served(encoder, [chat("a", "b")]) == 1
    assert served(encoder, [sample]) == 0
    assert outcome(encoder, [sample]) == outcome(long_way(byte_tokenizer()), [sample])


def test_what_happened_to_a_row_is_counted_in_both_ways():
    """A plain row is known to need no further look; an escaped one is counted though it stands between plain ones."""
    encoder = ChatEncoder(byte_tokenizer())
    rows = list(fit(encoder, [chat("a", "b"), chat("a<|im_end|>", "b"), chat("c", "d")], 99, "error"))
    assert [row.reasons for row in rows] == [(), ("escaped",), ()]
