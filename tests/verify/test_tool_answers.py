"""A model that answers with tool calls: its golden samples hold them in canonical form, and its folder answers so."""

from __future__ import annotations

from dataclasses import replace

from finetune.data.chat import ChatEncoder
from finetune.data.rows import Sample
from finetune.data.template import Metric
from finetune.evaluate.generate import Answer, with_calls
from finetune.verify.check import Limits
from finetune.verify.checks import judge
from finetune.verify.evidence import gather
from finetune.verify.folder import Folder
from finetune.verify.golden import make_facts, make_golden, read_golden, write_golden
from finetune.verify.wire import Parts, read, reply
from tests.conftest import CHATML_TOOLS, byte_tokenizer, tiny_llama
from tests.data.chats import assistant, user
from tests.verify.conftest import STOP, greedy, teach

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}}}}


def called(x):
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": x}}}
    return Sample({}, (user(f"{x}?"), assistant("", tool_calls=[call])), f"rows.jsonl:{x}", (TOOL,))


def test_verify_of_a_model_that_calls(tmp_path, monkeypatch):
    """Taught one call. The reference, the golden answer and the folder's are the same canonical text."""
    monkeypatch.setattr("tests.verify.conftest.LIMIT", 80)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML_TOOLS
    encoder, model, samples = ChatEncoder(tokenizer), tiny_llama(len(tokenizer)), [called(2)]
    teach(model, encoder, samples, 40)
    model.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    prompts = [encoder.encode_prompt(sample.prompt, sample.tools) for sample in samples]
    said, logprobs = zip(*(greedy(model, tokenizer, ids) for ids in prompts), strict=True)
    raw = [Answer(item.text, item.finished, (*item.ids, STOP)) for item in said]
    assert raw[0].text == '<tool_call>\n{"name": "f", "arguments": {"x": 2}}\n</tool_call>'
    answers = [with_calls(item, sample.tools, tokenizer) for item, sample in zip(raw, samples, strict=True)]
    goldens = make_golden(samples, prompts, answers, {"": Metric(name="tool_calls")}, None, logprobs)
    write_golden(tmp_path / "golden.jsonl", goldens)
    goldens = read_golden(tmp_path / "golden.jsonl")
    assert [golden.answer for golden in goldens] == [golden.reference for golden in goldens]
    assert goldens[0].answer == '[{"name": "f", "arguments": {"x": 2}}]' and goldens[0].tools == (TOOL,)
    assert goldens[0].scores["all_right"] == 1

    facts = make_facts("tiny", {"name_or_path": "tiny/base"}, encoder, [STOP], "float32", 80)
    evidence = gather(Folder(tmp_path), facts, goldens, 1)
    checks = {check.name: check for check in judge(evidence, Limits(exact=1.0))}
    assert checks["answers"].status == checks["template"].status == checks["stop"].status == "pass"
    assert "1 of 1 to the letter" in checks["answers"].message

    # A server that reads the calls itself says the same; one argument that differs is seen.
    (item,) = evidence.heard
    function = {"name": "f", "arguments": '{"x":2}'}
    whole = {"choices": [{"message": {"content": None, "tool_calls": [{"function": function}]}}]}
    item.reply = reply(read(whole, Parts(), 0.1), 0.2)
    assert item.exact
    item.reply = replace(item.reply, text=item.reply.text.replace("2", "3"))
    checks = {check.name: check for check in judge(evidence, Limits())}
    assert checks["answers"].status == "fail" and "all_right fell by 1.000" in checks["answers"].message
