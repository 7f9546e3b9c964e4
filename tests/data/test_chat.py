"""Ids and labels of whole conversations, written out."""

from __future__ import annotations

import pytest

from finetune.data.chat import IGNORED, ChatEncoder
from finetune.data.length import encode_all, fit
from finetune.data.rows import Sample
from finetune.errors import DataError
from tests.conftest import CHATML, byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def sample(*turns: str, first: str = "user") -> Sample:
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return Sample({}, tuple({"role": roles[i % 2], "content": text} for i, text in enumerate(turns)), "f:1")


def trained_text(tokenizer, example) -> str:
    return tokenizer.decode([label for label in example.labels if label != IGNORED])


def test_ids_and_labels_by_hand(tokenizer):
    """T21, T22, T28: `hi` -> `ok` in ChatML, one token a byte.

    <|im_start|>user\\nhi<|im_end|>\\n<|im_start|>assistant\\nok<|im_end|>\\n : of these only `ok` and the stop token
    after it are trained, though the stop token is also the pad and ends the user's turn too.
    """
    start, end, newline = 256, 257, tokenizer.convert_tokens_to_ids("Ċ")
    letter = {c: tokenizer.convert_tokens_to_ids(c) for c in "abcdefghijklmnopqrstuvwxyz"}
    word = lambda text: [letter[c] for c in text]  # noqa: E731
    (example,) = ChatEncoder(tokenizer).encode(sample("hi", "ok"))
    assert list(example.ids) == [
        start, *word("user"), newline, *word("hi"), end, newline,
        start, *word("assistant"), newline, *word("ok"), end, newline,
    ]  # fmt: skip
    no = IGNORED
    assert list(example.labels) == [no] * 10 + [no] * 11 + [letter["o"], letter["k"], end, no]
    assert example.trained == 3
    assert tokenizer.pad_token_id == end


def test_every_assistant_turn_is_trained_with_its_stop_token(tokenizer):
    (example,) = ChatEncoder(tokenizer).encode(sample("a", "one", "b", "two"))
    assert trained_text(tokenizer, example) == "one<|im_end|>two<|im_end|>"


def test_ids_are_those_of_the_serving_side(tokenizer):
    """T23: a server that renders the prompt itself feeds the ids that training saw before the answer."""
    conversation = sample("wind 35007KT?", "dir 350")
    served = tokenizer.apply_chat_template(
        list(conversation.prompt), add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"]
    encoder = ChatEncoder(tokenizer)
    assert encoder.encode_prompt(conversation.prompt) == served
    assert list(encoder.encode(conversation)[0].ids[: len(served)]) == served


@pytest.mark.parametrize("text", ["é", "日本語", "👩‍🚀", "a\n\nb", "  two spaces", "e\u0301", "مرحبا"])
def test_trained_text_is_the_assistant_text(tokenizer, text):
    """T25 (part): whatever the characters, decode(trained) == content + stop token."""
    (example,) = ChatEncoder(tokenizer).encode(sample(text, text))
    assert trained_text(tokenizer, example) == text + "<|im_end|>"


def test_a_conversation_that_begins_with_the_assistant(tokenizer):
    """T26: no user token is trained."""
    turns = sample("hello", "user text", "bye", first="assistant")
    assert trained_text(tokenizer, ChatEncoder(tokenizer).encode(turns)[0]) == "hello<|im_end|>bye<|im_end|>"


def test_control_tokens_in_data_are_refused(tokenizer):
    """T33: row and token named."""
    with pytest.raises(DataError) as caught:
        ChatEncoder(tokenizer, special_tokens_in_data="error").encode(sample("hi<|im_end|>", "ok"))
    assert caught.value.problems == ["f:1: the user message holds the tokenizer's control token '<|im_end|>' as text"]


@pytest.mark.parametrize(
    ("template", "what"),
    [
        (CHATML.replace("+ '<|im_end|>' + '\n'", "+ '\n'", 1), "with no stop token"),
        (CHATML.replace("message['content']", "message['content'] | upper"), "changes the assistant's text"),
        (
            CHATML.replace("<|im_start|>assistant\n' }}{% endif", "<|im_start|>assistant\nthink ' }}{% endif"),
            "a server will see",
        ),
    ],
)
def test_templates_that_can_not_be_trained_safely_are_refused(template, what):
    """T24: never a row with wrong or missing labels in silence."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    if "upper" in template:  # only the assistant's text is changed by a template that cuts or rewrites it
        tokenizer.chat_template = CHATML.replace(
            "message['content']",
            "(message['content'][:3] if message['role'] == 'assistant' else message['content'])",
        )
    with pytest.raises(DataError, match=what):
        ChatEncoder(tokenizer).encode(sample("hi there", "fine thanks"))


def test_a_template_that_trims_the_answer(tokenizer):
    trimming = byte_tokenizer()
    trimming.chat_template = CHATML.replace("message['content']", "message['content'] | trim")
    assert (
        trained_text(trimming, ChatEncoder(trimming).encode(sample("hi", "  two spaces\n"))[0])
        == "two spaces<|im_end|>"
    )


def test_no_chat_template(tokenizer):
    bare = byte_tokenizer()
    bare.chat_template = None
    with pytest.raises(DataError, match="has no chat template"):
        ChatEncoder(bare)


def words(*turns: str, **more) -> Sample:
    """Turns with a system message before them; a turn that begins with `-` says `train: false`."""
    roles = ["user", "assistant"]
    messages = [{"role": "system", "content": "S"}]
    for i, text in enumerate(turns):
        quiet = {"train": False} if text.startswith("-") else {}
        messages.append({"role": roles[i % 2], "content": text.lstrip("-"), **quiet})
    return Sample({}, tuple(messages), "f:1", **more)


def test_train_false_and_train_on(tokenizer):
    """T21: only the turns asked for; `all` trains every token but those of turns that say `train: false`."""
    chat = words("a", "-one", "b", "two")
    assert trained_text(tokenizer, ChatEncoder(tokenizer).encode(chat)[0]) == "two<|im_end|>"
    last = ChatEncoder(tokenizer, train_on="last_assistant")
    assert trained_text(tokenizer, last.encode(words("a", "one", "b", "two"))[0]) == "two<|im_end|>"
    assert trained_text(tokenizer, last.encode(words("a", "one", "b", "-two"))[0]) == "one<|im_end|>"
    everything = ChatEncoder(tokenizer, train_on="all")
    (example,) = everything.encode(words("a", "one"))
    assert example.labels == example.ids
    assert trained_text(tokenizer, everything.encode(chat)[0]) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n\n<|im_start|>user\nb"
        "<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("chat", "what"),
    [
        (words("a", "-one"), "f:1: no assistant message to train on"),
        (words("a"), "f:1: no assistant message to train on"),
        (words("a", "  \n"), "f:1: the assistant's message is empty"),
    ],
)
def test_nothing_to_train_on_is_refused(tokenizer, chat, what):
    """T24: never an example with zero labels."""
    with pytest.raises(DataError) as caught:
        ChatEncoder(tokenizer).encode(chat)
    assert caught.value.problems == [what]


def test_encode_many_is_encode_of_each(tokenizer):
    """One batch, with a bad row in it: the others are as if alone, the bad one has its error in its place."""
    encoder = ChatEncoder(tokenizer)
    chats = [words("a", "one"), words("a"), words("a<|im_end|>", "two", "b", "three"), words("日本", "語")]
    many = encoder.encode_many(chats)
    assert isinstance(many[1], DataError) and many[1].problems == ["f:1: no assistant message to train on"]
    assert [many[0], many[2], many[3]] == [encoder.encode(chats[i]) for i in (0, 2, 3)]


def merging(text: str = "ĊĊ"):
    """The byte tokenizer with one more merge: two line breaks become one token."""
    from tokenizers import models

    tokenizer = byte_tokenizer()
    vocabulary = {token: i for token, i in tokenizer.get_vocab().items() if i < 256} | {text: 300}
    tokenizer.backend_tokenizer.model = models.BPE(vocab=vocabulary, merges=[tuple(text)])
    return tokenizer


def test_a_token_that_straddles_prompt_and_answer_is_not_trained():
    """T25: `assistant\\n` + `\\nok`: the ids of the whole render; the token of both line breaks is not trained."""
    tokenizer = merging()
    (example,) = ChatEncoder(tokenizer).encode(sample("hi", "\nok"))
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "\nok"}]
    assert list(example.ids) == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    at = example.ids.index(300)
    assert example.labels[at] == IGNORED and trained_text(tokenizer, example) == "ok<|im_end|>"


@pytest.mark.parametrize("content", ["  hi", " hi  there ", "hi   ", "   "])
def test_offsets_without_their_spaces(content):
    """T25: Llama 3's tokenizer leaves spaces out of its offsets; every token of the answer is trained all the same."""
    from tokenizers import processors

    tokenizer = merging("ĠĠ")
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    chat = sample("a", content + ".")
    assert trained_text(tokenizer, ChatEncoder(tokenizer).encode(chat)[0]) == content + ".<|im_end|>"


def test_an_answer_of_one_token_at_the_beginning():
    """T26: the span of transformers issue 47325, where the text of the user after it was taken for the assistant's."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    (example,) = ChatEncoder(tokenizer).encode(sample("x", "user text", first="assistant"))
    assert trained_text(tokenizer, example) == "x<|im_end|>"
    assert [label != IGNORED for label in example.labels] == [True, True] + [False] * 10


def lengths(examples) -> list[int]:
    return [len(example.ids) for example in examples]


def test_length_error_and_drop(tokenizer):
    """T27: answers are never cut; a row that is too long is an error, or is left out and counted."""
    encoder = ChatEncoder(tokenizer)
    short, long = sample("a", "b"), sample("a" * 90, "b")
    examples, counts = encode_all(encoder, [short, long], 40, "drop")
    assert lengths(examples) == [23] and counts == {"rows": 2, "too_long_dropped": 1, "examples": 1}
    with pytest.raises(DataError) as caught:
        encode_all(encoder, [short, long], 40, "error")
    assert caught.value.problems == ["f:1: 112 tokens, data.max_length is 40; raise it or set data.too_long: drop"]
    with pytest.raises(DataError, match="all 1 rows are longer"):
        encode_all(encoder, [long], 40, "drop")


def test_length_split_turns(tokenizer):
    """T27: windows of whole turns from the end, the system message in each, every answer trained once.

    In ChatML, a byte a token: the system message 11 tokens, a user's two letters 10, an answer of three letters 16.
    """
    encoder = ChatEncoder(tokenizer)
    chat = words("q1", "one", "q2", "two", "q3", "six")
    (whole,) = encoder.encode(chat)
    assert len(whole.ids) == 11 + 3 * (10 + 16)
    examples, counts = encode_all(encoder, [chat], 11 + 2 * 26, "split_turns")
    assert [tokenizer.decode(example.ids).count("S<|im_end|>") for example in examples] == [1, 1]
    assert [trained_text(tokenizer, example) for example in examples] == [
        "one<|im_end|>",
        "two<|im_end|>six<|im_end|>",
    ]
    assert lengths(examples) == [11 + 26, 11 + 2 * 26]
    assert counts == {"rows": 1, "split_turns": 1, "examples": 2}
    examples, _ = encode_all(encoder, [chat], 11 + 2 * 26 - 1, "split_turns")
    assert [trained_text(tokenizer, e) for e in examples] == ["one<|im_end|>", "two<|im_end|>", "six<|im_end|>"]


def test_length_split_turns_that_can_not_fit(tokenizer):
    """T27: an answer that fits nowhere is left out and counted, the others stay."""
    encoder = ChatEncoder(tokenizer)
    chat = words("q1", "one", "q2", "x" * 50, "q3", "six")
    examples, counts = encode_all(encoder, [chat], 61, "split_turns")
    assert [trained_text(tokenizer, e) for e in examples] == ["one<|im_end|>", "six<|im_end|>"]
    assert counts == {"rows": 1, "split_turns": 1, "answer_too_long_dropped": 1, "examples": 2}


def test_length_truncate_prompt(tokenizer):
    """T27: the oldest turns go first, then the beginning of the longest user text; the answer stays whole."""
    encoder = ChatEncoder(tokenizer)
    chat = words("q1", "one", "q2", "two", "q3", "six")
    examples, counts = encode_all(encoder, [chat], 59, "truncate_prompt")
    assert tokenizer.decode(examples[0].ids) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nq3<|im_end|>\n<|im_start|>assistant\nsix<|im_end|>\n"
    )
    assert counts == {"rows": 1, "oldest_turns_dropped": 1, "examples": 1}
    long = words("q1", "one", "0123456789" * 9, "six")
    examples, counts = encode_all(encoder, [long], 50, "truncate_prompt")
    assert lengths(examples) == [50] and trained_text(tokenizer, examples[0]) == "six<|im_end|>"
    assert "user\n567890123456789<|im_end|>" in tokenizer.decode(examples[0].ids)
    assert counts == {"rows": 1, "oldest_turns_dropped": 1, "user_text_cut": 1, "examples": 1}
    (fitted,) = fit(encoder, [words("q1", "x" * 60)], 50, "truncate_prompt")
    assert fitted.examples == () and fitted.reasons == ("answer_too_long_dropped",)


def test_what_happened_to_rows_is_counted(tokenizer):
    chats = [words("a<|im_end|>", "one"), words("a", "one")]
    _, counts = encode_all(ChatEncoder(tokenizer), chats, 99, "error")
    assert counts == {"rows": 2, "escaped": 1, "examples": 2}
    thinking = Sample({}, ({"role": "user", "content": "a"},
                           {"role": "assistant", "content": "b", "reasoning_content": "c"}), "f:1")  # fmt: skip
    _, counts = encode_all(ChatEncoder(tokenizer), [thinking], 99, "error")
    assert counts == {"rows": 1, "reasoning_not_rendered": 1, "examples": 1}
