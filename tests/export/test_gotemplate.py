"""Ollama's TEMPLATE: derived from a chat template and equal to it, or refused.

The interpreter here was compared once with Go itself: ollama 0.32's Modelfile parser and Go 1.27's text/template wrote
528 prompts of 41 of these families as their chat templates do.
"""

from __future__ import annotations

import re

import pytest

from finetune.errors import RecipeError
from finetune.export.gotemplate import execute, go_template, ollama_template, prompts
from tests.conftest import ROOT
from tests.data.chats import CONVERSATIONS, assistant, golden_names, template_tokenizer, user

PLAIN = [CONVERSATIONS["single"], CONVERSATIONS["system"]]


def test_chatml_by_hand(tiny_base):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    done = ollama_template(tokenizer, PLAIN)
    assert done.text == (
        '{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n'
        "{{ end }}{{ end }}<|im_start|>assistant\n"
    )
    assert done.proven == 5 + 1 + 2, "the probes, and the prompts before each answer"
    assert [line.split(";")[0] for line in done.limits] == ["neighbouring messages of one role are joined by Ollama"]
    chat = [{"role": "system", "content": "be brief"}, user("9 1?")]
    wanted = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n9 1?<|im_end|>\n<|im_start|>assistant\n"
    assert execute(done.text, chat) == wanted


@pytest.mark.parametrize("name", ["llama3", "llama3_1", "qwen2_5", "qwen3", "smollm2", "phi4", "mistral", "gemma3"])
def test_families_write_what_their_chat_template_writes(name):
    """Held to a conversation that the derivation has not seen."""
    tokenizer = template_tokenizer(name)
    done = ollama_template(tokenizer, PLAIN)
    chat = [user("wie groß\n\nist {x}?"), assistant("3 < 4"), user("sure?"), assistant("yes"), user("why")]
    for messages in (chat, [{"role": "system", "content": "short"}, *chat], chat[:1]):
        wanted = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert execute(done.text, messages) == wanted
    assert done.proven == 8


def test_how_many_families_can_be_said():
    """The numbers of docs/serving.md; whatever is not refused has been proven on eight prompts or, without a system
    message, on four."""
    refused, proven = [], []
    for name in golden_names():
        try:
            proven.append(ollama_template(template_tokenizer(name), PLAIN).proven)
        except RecipeError:
            refused.append(name)
    assert refused == ["gptoss", "idefics3", "llama3_2", "llava_next", "muse_glimmer", "smolvlm"]
    assert len(proven) == 41 and set(proven) <= {4, 8}
    for name in ("serving.md", "serving.zh-CN.md"):
        assert {"41", "47"} <= set(re.findall(r"\d+", (ROOT / "docs" / name).read_text(encoding="utf-8")))


def test_a_default_system_prompt_is_written_where_none_is_given():
    text = ollama_template(template_tokenizer("smollm2"), PLAIN).text
    assert text.startswith(
        '{{ if ne (index .Messages 0).Role "system" }}<|im_start|>system\nBe helpful.<|im_end|>\n{{ end }}{{ range'
    )


def test_the_token_that_the_engine_adds_is_not_written_twice():
    """Llama 3's tokenizer puts <|begin_of_text|> before every prompt, and so does llama.cpp."""
    tokenizer = template_tokenizer("llama3")

    def render(messages, ask):
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)

    done = go_template(render, "<|begin_of_text|>", PLAIN)
    assert "begin_of_text" not in done.text and done.proven == 8
    with pytest.raises(RecipeError, match=r"does not begin with '<s>', which the tokenizer adds"):
        go_template(render, "<s>", PLAIN)


def test_what_differs_for_unusual_conversations_is_said():
    """Gemma refuses a system message, Qwen3 drops thoughts, Llama 3 strips white space."""
    assert any("refuses a system message" in line for line in ollama_template(template_tokenizer("gemma"), []).limits)
    assert any("drops the thoughts" in line for line in ollama_template(template_tokenizer("qwen3"), []).limits)
    assert any("strips white space" in line for line in ollama_template(template_tokenizer("llama3"), []).limits)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}{{ messages | length }}", r"it writes '3', not '1'"),
        ("{{ messages[-1].content }}", "a turn is left out, or written twice"),
        ("{{ strftime_now('%d') }}{% for m in messages %}{{ m.content }}{% endfor %}", "today's date"),
        ("{% for m in messages %}[{{ loop.index }}]{{ m.content }}{% endfor %}", "it writes"),
    ],
)
def test_a_template_that_can_not_be_said_is_refused(template, reason):
    """With what is different, and the way out."""
    tokenizer = template_tokenizer("qwen3")
    tokenizer.chat_template = template
    with pytest.raises(RecipeError, match=reason) as caught:
        ollama_template(tokenizer, PLAIN)
    assert "engine: llama.cpp" in str(caught.value) and "OLLAMA_GO_TEMPLATE=0" in str(caught.value)


def test_the_bundles_own_conversations_count():
    """Qwen3 drops earlier thoughts: with such a conversation among the golden ones, the TEMPLATE is not equal."""
    with pytest.raises(RecipeError, match="can't be said as an Ollama TEMPLATE"):
        ollama_template(template_tokenizer("qwen3"), [CONVERSATIONS["think"]])


def test_text_that_a_modelfile_or_go_would_read_otherwise():
    """Braces, triple quotes and letters that Ollama's parser drops stand as Go strings."""
    tokenizer = template_tokenizer("qwen3")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '{{ \"\"\"\u200b' + m.role + ':' }}{{ m.content }};{% endfor %}assistant:"
    )
    done = ollama_template(tokenizer, PLAIN)
    assert '{{ "{{ \\"\\"\\"\\u200buser:" }}{{ .Content }}' in done.text
    assert '"""' not in done.text and done.text.isprintable()


def test_prompts_of_a_conversation():
    """Before each answer; not with tools, nor with two turns of one role in a row, which Ollama joins."""
    assert [len(prompt) for prompt in prompts(CONVERSATIONS["system"])] == [2, 4]
    assert [len(prompt) for prompt in prompts(CONVERSATIONS["tools"])] == [1]
    assert prompts(CONVERSATIONS["two_users"]) == []
