"""Golden samples as files, and the measures on answers, by hand."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from finetune.data.chat import ChatEncoder
from finetune.data.rows import Sample
from finetune.data.template import Metric
from finetune.errors import RecipeError
from finetune.verify.check import Limits
from finetune.verify.checks import judge
from finetune.verify.evidence import Evidence, Heard, Load
from finetune.verify.golden import (
    FACTS,
    SAMPLES,
    make_facts,
    make_golden,
    read_facts,
    read_golden,
    write_facts,
    write_golden,
)
from finetune.verify.measure import Drift, drifted, logprob_gap, speed
from finetune.verify.wire import Reply
from tests.conftest import CHATML, byte_tokenizer
from tests.verify.conftest import Said

CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": "1"}}}


def test_a_golden_sample_by_hand(tmp_path):
    """Scores through the metric; the prompt without the answer; what is written is what is read, U+2028 included."""
    messages = (
        {"role": "user", "content": "a\u2028b"}, {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "2"}, {"role": "assistant", "content": "x: 1\ny: 2"},
    )  # fmt: skip
    sample = Sample({}, messages, "f.jsonl:3", ({"type": "function", "function": {"name": "f"}},), "sums")
    metric = Metric(name="fields", tolerance=0.1)
    goldens = make_golden([sample], [[5, 6]], [Said("x: 1\ny: 3", True, (7, 8))], {"sums": metric, "": metric})
    assert goldens[0].messages == messages[:3]
    assert goldens[0].scores == {"field_match": 0.5, "all_fields": 0.0, "field/x": 1.0, "field/y": 0.0}
    assert (goldens[0].base_answer, goldens[0].logprobs) == (None, None)
    goldens.append(replace(goldens[0], base_answer="", logprobs=(-0.5, -1.25)))
    write_golden(tmp_path / SAMPLES, goldens)
    assert read_golden(tmp_path / SAMPLES) == goldens


def test_facts_hold_probes_in_the_tokenizer_s_own_ids(tmp_path):
    """ChatML by hand: <|im_start|>user\\n ... ; a template without the role system loses that probe only."""
    tokenizer = byte_tokenizer()
    facts = make_facts("n", {"name_or_path": "b"}, ChatEncoder(tokenizer), [257], "float32", 8)
    assert facts.stop_tokens == ("<|im_end|>",)
    assert facts.chat_template_sha256 == hashlib.sha256(CHATML.encode()).hexdigest()
    first = facts.probes[0]
    text = f"<|im_start|>user\n{first.messages[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
    assert list(first.prompt_ids) == tokenizer(text, add_special_tokens=False).input_ids
    assert len(facts.probes) == len(facts.texts) + 2
    assert facts.texts[0] == ("a  1\n\n2 b", tuple(tokenizer("a  1\n\n2 b").input_ids))
    write_facts(tmp_path / FACTS, facts)
    assert read_facts(tmp_path / FACTS) == facts
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + tokenizer.chat_template
    )
    assert len(make_facts("n", {}, ChatEncoder(tokenizer), [257], "float32", 8).probes) == len(facts.probes) - 1


def test_broken_lines_are_named_all_at_once(made, tmp_path):
    lines = (made.tuned / SAMPLES).read_text().splitlines()
    wrong = json.loads(lines[1])
    wrong |= {"prompt_ids": ["a"], "finished": "perhaps"}
    del wrong["answer"]
    (tmp_path / "g").write_text("\n".join([lines[0], json.dumps(wrong), "{", lines[2], ""]))
    with pytest.raises(RecipeError) as caught:
        read_golden(tmp_path / "g")
    assert [line.split(": ")[0:2] for line in caught.value.problems] == [
        [f"{tmp_path / 'g'}:2", "prompt_ids.0"], [f"{tmp_path / 'g'}:2", "answer"], [f"{tmp_path / 'g'}:2", "finished"],
        [f"{tmp_path / 'g'}:3", "invalid JSON"],
    ]  # fmt: skip
    (tmp_path / "empty").write_text("")
    with pytest.raises(RecipeError, match="empty: no golden sample in it"):
        read_golden(tmp_path / "empty")
    with pytest.raises(RecipeError, match="none: can't be read: No such file"):
        read_golden(tmp_path / "none")
    (tmp_path / FACTS).write_text("{}")
    with pytest.raises(RecipeError) as caught:
        read_facts(tmp_path / FACTS)
    assert len(caught.value.problems) == 9


def test_drift_by_hand():
    """Equal: all 4 tokens; parted after 2 of 4 characters of a text of 6 tokens: 1 + 6 * 2/4 = 4; nothing shared: 1."""
    assert drifted([("abcd", "abcd", 4)]) == Drift(0, 1, 4)
    drift = drifted([("abcd", "abcd", 4), ("abXY", "abcd", 6), ("Z", "abcd", 9)])
    assert drift == Drift(2, 3, 4 + 4 + 1)
    assert drift.rate == 2 / 9
    assert drifted([("abcdef", "abcd", 4)]) == Drift(1, 1, 5)
    assert drifted([("", "", 0)]).rate == 0
    assert [Drift(1, n, 10.0).over(0.02) for n in (7, 8)] == [True, False]
    assert [Drift(2, 8, tokens).over(0.02) for tokens in (99.0, 101.0)] == [True, False]


def test_log_probabilities_are_compared_while_the_tokens_are_the_same(made):
    golden = replace(made.goldens[0], answer="abcdefghij", logprobs=tuple(-0.1 * i for i in range(10)))
    same = tuple((letter, -0.1 * i - 0.25) for i, letter in enumerate("abcdefghij"))
    heard = Heard(golden, Reply("abcdefghij", "stop", logprobs=same))
    assert logprob_gap([heard]) == (pytest.approx(0.25), 10)
    parted = (*same[:4], ("X", -9.0), *same[5:])
    assert logprob_gap([Heard(golden, Reply("abcdXfghij", "stop", logprobs=parted))]) is None  # four: too few
    assert logprob_gap([heard, Heard(golden, Reply("abcdXfghij", "stop", logprobs=parted))]) == (
        pytest.approx(0.25),
        14,
    )
    assert logprob_gap([Heard(golden, Reply("abcdefghij", "stop"))]) is None


def test_right_answers_of_other_weights_are_seen_in_log_probabilities(made):
    """The same words with quite other certainty: another model that happens to agree."""
    facts = read_facts(made.tuned / FACTS)
    heard = []
    for golden in made.goldens:
        far = tuple((chr(c), p - 2.0) for c, p in zip(golden.answer.encode(), golden.logprobs, strict=True))
        heard.append(Heard(golden, Reply(golden.answer, "stop", logprobs=far), ids=golden.prompt_ids))
    statuses = {check.name: check.status for check in judge(Evidence(facts, heard), Limits())}
    assert [name for name, status in statuses.items() if status == "fail"] == ["model"]


def statuses(made, heard) -> dict[str, str]:
    return {check.name: check.status for check in judge(Evidence(read_facts(made.tuned / FACTS), heard), Limits())}


def test_what_an_earlier_failure_explains_is_not_judged(made):
    """Sampled answers that are the base's; half of the answers right in spite of another prompt, none asked by ids."""
    heard = [
        Heard(g, of_base := Reply(str(g.base_answer), "stop"), again=Reply("x", "stop"), raw=of_base, ids=g.prompt_ids)
        for g in made.goldens
    ]
    found = statuses(made, heard)
    assert (found["sampling"], found["effect"], found["model"]) == ("fail", "unknown", "unknown")
    wrong = (0, *made.goldens[0].prompt_ids)
    heard = [Heard(g, Reply((g.answer, "no")[i % 2], "stop"), ids=wrong) for i, g in enumerate(made.goldens)]
    found = statuses(made, heard)
    assert (found["template"], found["model"], found["answers"]) == ("fail", "unknown", "fail")


def test_requests_that_fail_under_load_are_counted(made):
    facts = read_facts(made.tuned / FACTS)
    heard = [Heard(g, Reply(g.answer, "stop", tokens=4, seconds=1.0), ids=g.prompt_ids) for g in made.goldens]
    load = Load(8, [heard[0].reply, None, *(item.reply for item in heard[2:])], 2.0)
    checks = judge(Evidence(facts, heard, load=load), Limits())
    assert [check.name for check in checks if check.status == "fail"] == ["load"]
    assert checks[-1].message.startswith("1 of 8 requests failed; 8 at a time: 14.0 tokens/s together")


def test_speed_by_hand():
    """Nearest rank; 11 tokens in 0.1 to 1.1 s are 10 a second after the first."""
    numbers = speed(
        [Reply("", "stop", tokens=11, first=0.1, seconds=1.1), Reply("", "stop", tokens=11, first=0.3, seconds=0.8)]
    )
    assert numbers == {
        "first_p50": 0.3, "first_p95": 0.3, "seconds_p50": 1.1, "seconds_p95": 1.1, "tokens_per_second": pytest.approx(20.0),
    }  # fmt: skip
    assert speed([Reply("", "stop", tokens=5, first=0.5, seconds=0.5)])["tokens_per_second"] == 10.0
    assert speed([Reply("", "stop", first=0.5, seconds=0.5)])["tokens_per_second"] == 0.0
