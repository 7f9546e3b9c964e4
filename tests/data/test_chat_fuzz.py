"""Random conversations through random templates: a sample that decodes to what was said, or an error with its row."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.data.chat import IGNORED, ChatEncoder, Example
from finetune.data.length import fit
from finetune.data.rows import Sample
from finetune.errors import DataError
from tests.data.chats import FORMS, template_tokenizer, trained_runs

TRL = ("qwen2_5", "qwen3", "llama3", "gemma3", "glm4moe", "phi3", "gptoss", "lfm2_2_5", "cohere2", "llava_next")
FUZZ = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)


@cache
def encoder_of(name: str) -> ChatEncoder:
    return ChatEncoder(template_tokenizer(name))


def texts(name: str) -> st.SearchStrategy[str]:
    """Any text, thick with control tokens, halves of them, white space, and characters of many bytes."""
    pieces = [*encoder_of(name).control.tokens, "<|", "|>", "<think>", "</think>", "\n", "  ", "é", "e\u0301", "日本",
              "👩‍🚀", "مرحبا", "\u200b", "\ufeff", "{{ x }}", "{% raw %}", "\U000f0000", "\x00", "a"]  # fmt: skip
    anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    return st.lists(st.one_of(st.sampled_from(pieces), anything), min_size=1, max_size=6).map("".join)


def chats(name: str) -> st.SearchStrategy[Sample]:
    role = st.sampled_from(["user", "assistant", "user", "assistant", "system", "tool"])
    message = st.fixed_dictionaries(
        {"role": role, "content": texts(name)}, optional={"train": st.booleans(), "reasoning_content": texts(name)}
    )
    free = st.lists(message, min_size=1, max_size=5)
    proper = st.lists(st.tuples(texts(name), texts(name)), min_size=1, max_size=3).map(
        lambda pairs: [
            {"role": role, "content": text}
            for pair in pairs
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
    )
    return st.one_of(free, proper).map(lambda messages: Sample({}, tuple(messages), "rows.jsonl:7"))


def check(encoder: ChatEncoder, sample: Sample) -> bool:
    """Whether the sample was encoded; if not, its error names the row."""
    try:
        examples = encoder.encode(sample)
    except DataError as error:
        assert error.problems and all(problem.startswith("rows.jsonl:7: ") for problem in error.problems)
        return False
    turns = [encoder.template.prepared(sample.messages[i]) for i in encoder.trained_turns(sample.messages)]
    assert len(examples) in (1, len(turns))
    runs = [run for example in examples for run in trained_runs(example)]
    nothing_forged(encoder, sample, examples)
    roles = [message["role"] for message in sample.messages]
    if ("assistant", "assistant") in pairwise(roles) and len(runs) < len(turns):
        return True  # Mistral puts nothing between them: two turns stand together
    assert len(runs) == len(turns)
    lead, _ = encoder.template.around_answer
    for run, turn in zip(runs, turns, strict=True):
        text, stop = encoder.tokenizer.decode(run[:-1]), run[-1]
        content = turn["content"] if isinstance(turn["content"], str) else turn["content"][0]["text"]
        assert stop in encoder.control_ids and run[-2] != stop
        text = text.removesuffix("<|END_RESPONSE|>").strip()  # Command R ends a turn with two tokens
        if turn.get(encoder.template.reasoning_key or "") is None:
            assert content.strip() in (text, text.removeprefix(lead.strip()).strip())
        else:
            assert text.endswith(content.strip())
    for example in examples:
        assert all(label in (IGNORED, token) for token, label in zip(example.ids, example.labels, strict=True))
    return True


def nothing_forged(encoder: ChatEncoder, sample: Sample, examples: list[Example]) -> None:
    """As many control tokens as with benign text in the same places."""
    prepared = [encoder.template.prepared(message) for message in sample.messages]
    benign = []
    for message, ready, i in zip(sample.messages, prepared, range(len(prepared)), strict=True):
        content = ready["content"] if isinstance(ready["content"], str) else ready["content"][0]["text"]
        thought = ready.get(encoder.template.reasoning_key or "")
        clean = {"role": message["role"], "content": f"b{i}" if content.strip() else content}
        if isinstance(thought, str):
            clean["reasoning_content"] = f"r{i}" if thought.strip() else thought
        benign.append(clean | {"train": message.get("train", True)})
    harmless = encoder.encode(Sample({}, tuple(benign), "b:1"))
    if len(examples) == len(harmless):
        assert [controls(encoder, e) for e in examples] == [controls(encoder, e) for e in harmless]
    else:  # white space before an answer can grow into the token before it: then each turn is an example, the last whole
        assert controls(encoder, examples[-1]) == controls(encoder, harmless[-1])


def controls(encoder: ChatEncoder, example: Example) -> list[int]:
    return [token for token in example.ids if token in encoder.control_ids]


@pytest.mark.parametrize("name", [*FORMS, *TRL])
def test_a_sample_or_an_error_with_its_row(name):
    """T21, T24, T25, T32: whatever the text, trained is what the assistant said and the stop token, or it is refused."""
    encoder = encoder_of(name)
    encoded = []

    @FUZZ
    @given(chats(name))
    def run(sample):
        encoded.append(check(encoder, sample))

    run()
    assert sum(encoded) >= 30 and len(encoded) > sum(encoded)


@pytest.mark.parametrize("too_long", ["drop", "split_turns", "truncate_prompt", "error"])
@pytest.mark.parametrize("name", ["smollm2", "qwen3", "ernie4_5"])
def test_every_length_policy_keeps_answers_whole(name, too_long):
    """T24, T27: nothing longer than the limit, every example trains something, each answer at most once and whole."""
    encoder = encoder_of(name)

    @FUZZ
    @given(chats(name), st.integers(30, 200))
    def run(sample, max_length):
        (fitted,) = fit(encoder, [sample], max_length, too_long)
        assert fitted.examples or fitted.problems or fitted.reasons

        def said(run):
            return encoder.tokenizer.decode(run)

        try:
            encoder.encode(sample)
        except DataError:
            assert fitted.problems and not fitted.examples
            return
        assert not fitted.problems or too_long == "error"
        for example in fitted.examples:
            assert len(example.ids) <= max_length and example.trained > 0
        whole = [said(run) for example in encoder.encode(sample) for run in trained_runs(example)]
        kept = [said(run) for example in fitted.examples for run in trained_runs(example)]
        if "split_turns" in fitted.reasons and "answer_too_long_dropped" not in fitted.reasons:
            assert len(kept) == len(whole)
        following = iter(whole)
        assert all(any(text in (other, other.strip()) for other in following) for text in kept)

    run()
