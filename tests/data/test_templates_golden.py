"""The chat templates of many model families x seven conversations: what is trained, as text written down here.

Each file under golden/ holds the control tokens of a family, the tokens its turns stop with, and for every conversation
either the trained text (a list of examples, each a list of turns) or the refusal. See chats.py.
"""

from __future__ import annotations

import json

import pytest

from finetune.data.chat import IGNORED, ChatEncoder
from finetune.data.render import TemplateRefusalError
from finetune.data.rows import Sample
from finetune.errors import DataError
from tests.data.chats import (
    CONVERSATIONS,
    FORMS,
    assistant,
    conversation,
    golden,
    golden_names,
    template_tokenizer,
    trained_runs,
    user,
)

WANTED = {
    "qwen2_5", "qwen3", "llama3", "llama3_1", "mistral", "gemma", "gemma3", "glm4moe", "deepseekv3",
    "deepseek_r1_distill", "internlm3", "hunyuan", "ernie4_5", "smollm2", "phi3", "phi3_5", "phi4",
}  # fmt: skip


def test_the_families_we_promise_have_golden_files():
    names = set(golden_names())
    assert names >= WANTED and set(FORMS) <= names and len(names) >= 40
    assert all(set(golden(name)["trained"]) == set(CONVERSATIONS) for name in names)


@pytest.mark.parametrize("name", golden_names())
def test_trained_text_of_every_turn(name):
    """T21, T22, T26: exactly the assistant's text with its markup and one stop token a turn, or the named refusal."""
    record = golden(name)
    tokenizer = template_tokenizer(name)
    encoder = ChatEncoder(tokenizer)
    stops = set(tokenizer.convert_tokens_to_ids(record["stops"]))
    for key, expected in record["trained"].items():
        try:
            examples = encoder.encode(conversation(key))
        except DataError as error:
            assert f"refused: {error}" == expected.replace("refused: ", "refused: f:1: ", 1), key
            continue
        runs = [trained_runs(example) for example in examples]
        assert [[tokenizer.decode(run) for run in turns] for turns in runs] == expected, key
        assert "asked" not in json.dumps(expected), key
        for run in (run for turns in runs for run in turns):
            assert run[-1] in stops and run[-2] != run[-1], key
        said = [m["content"].split("</think>")[-1].strip() for m in CONVERSATIONS[key] if m["role"] == "assistant"]
        whole = "\n".join(text for turns in expected for text in turns)
        assert [whole.count(text) for text in said if text] == [1] * sum(map(bool, said)), key


@pytest.mark.parametrize("name", golden_names())
def test_ids_are_those_of_apply_chat_template(name):
    """T23: the ids of the whole conversation, and before each trained turn the ids of the prompt a server feeds."""
    tokenizer = template_tokenizer(name)
    encoder = ChatEncoder(tokenizer)
    compared = 0
    for key, expected in golden(name)["trained"].items():
        if isinstance(expected, str):
            continue
        sample = conversation(key)
        messages = [encoder.template.prepared(message) for message in sample.messages]
        tools = list(sample.tools) or None

        def served(part, prompt, tools=tools):
            return tokenizer.apply_chat_template(
                part, tools=tools, add_generation_prompt=prompt, tokenize=True, return_dict=True
            )["input_ids"]

        examples = encoder.encode(sample)
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        for position, turn in enumerate(turns):
            example = examples[position] if len(examples) > 1 else examples[0]
            rendered = served(messages[: turn + 1] if len(examples) > 1 else messages, False)
            assert list(example.ids[: len(rendered)]) == rendered, key
            assert len(example.ids) - len(rendered) in ((0, 1) if name == "glm4moe" else (0,)), key
            if turn == 0:
                continue  # no server renders an empty prompt
            prompt = served(messages[:turn], True)
            assert encoder.encode_prompt(sample.messages[:turn], sample.tools) == prompt, key
            assert list(example.ids[: len(prompt)]) == prompt, key
            assert example.labels[len(prompt) - 1] == IGNORED and example.labels[len(prompt)] != IGNORED, key
            compared += 1
    assert compared >= 3 or name.startswith(("deepseek", "nemotron"))


def test_refusals_are_few_and_known():
    """Of all template x conversation pairs that the template itself renders, those that we refuse, by reason."""
    reasons: dict[str, int] = {}
    trained = 0
    for name in golden_names():
        for expected in golden(name)["trained"].values():
            if not isinstance(expected, str):
                trained += 1
            elif "refuses the conversation" not in expected:
                reason = (
                    "tool call" if "tool call" in expected else "prompt" if "a server will see" in expected else "?"
                )
                reasons[reason] = reasons.get(reason, 0) + 1
    assert "?" not in reasons
    assert trained >= 240


def test_the_template_refuses_in_its_own_words():
    encoder = ChatEncoder(template_tokenizer("gemma"))
    with pytest.raises(TemplateRefusalError, match="System role not supported"):
        encoder.template.render([{"role": "system", "content": "x"}])


def test_a_prompt_that_ends_in_a_space_and_an_answer_do_not_grow_together():
    """T23, T25: ERNIE 4.5's `Assistant: ` before `IFR`; a tokenizer that merges ` I` must not lose the first letter."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠI"]
    model = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[("Ġ", "I")]))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.decoder = decoders.ByteLevel()
    special = {"bos_token": "<|begin_of_sentence|>", "eos_token": "<|end_of_sentence|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, **special)
    tokenizer.chat_template = FORMS["ernie4_5"]
    encoder = ChatEncoder(tokenizer)

    messages = (user("a"), assistant("IFR"), user("b"), assistant("IVR"))
    first, second = encoder.encode(Sample({}, messages, "f:1"))
    merged = tokenizer.convert_tokens_to_ids("ĠI")
    assert [tokenizer.decode(run) for run in trained_runs(first)] == ["IFR<|end_of_sentence|>"]
    assert [tokenizer.decode(run) for run in trained_runs(second)] == ["IVR<|end_of_sentence|>"]
    assert merged not in first.ids and second.ids.count(merged) == 1  # earlier answers stand as a server renders them
    prompt = encoder.encode_prompt(messages[:3])
    assert list(second.ids[: len(prompt)]) == prompt and second.labels[len(prompt)] != IGNORED
