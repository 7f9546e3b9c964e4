"""Which chat templates only pass text through: what is read off their syntax trees."""

from __future__ import annotations

import pytest

from finetune.data.passthrough import passes_text_through
from tests.conftest import CHATML
from tests.data.chats import golden_names, template_tokenizer

PASSING = {
    "ernie4_5", "gemma", "hunyuan", "internlm3", "llama3", "mistral", "phi3", "phi3_5", "phi4", "qwen2_5",
    "qwen3_instruct_2507", "smollm2",
}  # fmt: skip


def test_families_that_pass_text_through():
    """Of the golden templates these; the others look for thoughts in the text, take parts, or use macros."""
    found = {name for name in golden_names() if passes_text_through(template_tokenizer(name).chat_template)}
    assert found == PASSING
    assert passes_text_through(CHATML)


def looped(body: str) -> str:
    return "{% for m in messages %}" + body + "{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        "no message at all",
        looped("{{ m.role }}: {{ m.content }}"),
        looped("{{ m['role'] + ': ' + m['content'] | trim ~ eos_token }}"),
        looped("{% set text = bos_token + m.content %}{{ text | trim }}"),
        looped("{% if m.content is string and m.content %}{{ m.content }}{% endif %}"),
        looped("{% if 'tool_calls' in m or m.tool_calls or loop.last %}{{ m.tool_calls | tojson }}{% endif %}"),
        looped("{% if m.role == 'x' %}{{ raise_exception('no ' + m.role) }}{% endif %}"),
        "{% set rest = messages[1:] %}{{ messages[0].content }}{% for m in rest %}{{ m.content }}{% endfor %}",
        "{{ messages[-1]['content'] if messages | length > 1 else '' }}",
        "{% set ns = namespace(n=0) %}" + looped("{% set ns.n = ns.n + 1 %}{{ messages[ns.n - 1].content }}"),
    ],
)
def test_text_is_only_written_out(source):
    assert passes_text_through(source)


@pytest.mark.parametrize(
    "source",
    [
        looped("{% if '/think' in m.content %}x{% endif %}"),
        looped("{{ m.content[:3] }}"),
        looped("{{ m.content | upper }}"),
        looped("{{ m.content | length }}"),
        looped("{{ m.content | trim('x') }}"),
        looped("{{ m.content | trim(*x) }}"),
        looped("{{ m.content.strip() }}"),
        looped("{{ m.content == 'x' }}"),
        looped("{{ 'x' if m.content > 'x' }}"),
        looped("{{ f(m.content) }}"),
        looped("{{ words[m.content] }}"),
        looped("{{ m.content * 2 }}"),
        looped("{{ '%s' % m.content }}"),
        looped("{% for letter in m.content %}{{ letter }}{% endfor %}"),
        looped("{% set text = m.content %}{% if text == 'x' %}y{% endif %}"),
        "{% set ns = namespace(a='') %}" + looped("{% set ns.a = m.content %}") + "{{ ns.a | upper }}",
        looped("{% if text == 'x' %}y{% endif %}{% set text = m.content %}"),
        looped("{% set text %}{{ m.content }}{% endset %}{{ text | upper }}"),
        looped("{% filter upper %}{{ m.content }}{% endfilter %}"),
        "{% macro shown(m) %}{{ m.content | upper }}{% endmacro %}" + looped("{{ shown(m) }}"),
        looped("{{ m }}"),
        looped("{{ m | tojson }}"),
        looped("{{ m['con' + 'tent'] | upper }}"),
        looped("{{ m[key] | upper }}"),
        looped("{{ m.get('content') | upper }}"),
        looped("{% for key, value in m.items() %}{{ value | upper }}{% endfor %}"),
        looped("{{ loop.previtem.content | upper }}"),
        looped("{% set one = loop %}{{ one.previtem.content | upper }}"),
        looped("{% for m in [m] %}{{ m.content | upper }}{% endfor %}"),
        looped("{% set a, b = m.content, 1 %}{{ a | upper }}"),
        looped("{% with text = m.content %}{{ text | upper }}{% endwith %}"),
        "{{ messages | map(attribute='content') | join | upper }}",
        "{{ messages | selectattr('content', 'equalto', 'x') | list | length }}",
        "{{ (messages | first).content | upper }}",
        "{{ messages == other }}",
        "{% set messages = 'x' %}" + looped("{{ m.content.upper() }}"),
        "{% for m in messages recursive %}{{ m.content }}{% endfor %}",
        "{% include 'other' %}",
        "{% generation %}x{% endgeneration %}",
        "{% if %}",
    ],
)
def test_text_is_looked_at_or_goes_where_it_can_not_be_followed(source):
    assert not passes_text_through(source)
