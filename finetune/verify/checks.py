"""Checks of what goes in and where it ends: answers at all, token ids, prompt, cuts, stops. Pure functions.

`judge` has them all in the order of causes: what an earlier failure explains is not judged again under another name.
"""

from __future__ import annotations

from finetune.verify.check import FAIL, PASS, UNKNOWN, Check, Limits
from finetune.verify.evidence import Evidence, Ids
from finetune.verify.measure import drifted
from finetune.verify.outcomes import answers, effect, latency, load, model
from finetune.verify.wire import Reply


def judge(evidence: Evidence, limits: Limits) -> list[Check]:
    """All checks, causes before effects: what an earlier failure explains is not judged again under another name."""
    answered = replies(evidence)
    if not any(heard.reply for heard in evidence.heard):
        return [answered]
    tokens = tokenizer(evidence)
    prompt = template(evidence, tokens)
    draws = sampling(evidence, limits)
    broken = next((check.name for check in (tokens, prompt, draws) if check.status == FAIL), "")
    adapter = effect(evidence, limits, broken)
    unsure = "template" if prompt.status == UNKNOWN else ""
    weights = model(evidence, limits, "effect" if adapter.status == FAIL else broken or unsure)
    checks = [answered, tokens, prompt, length(evidence), stop(evidence), draws, adapter, weights]
    checks += [answers(evidence, limits), latency(evidence, limits)]
    return checks + ([load(evidence, limits)] if evidence.load else [])


def replies(evidence: Evidence) -> Check:
    """Every golden sample is answered at all."""
    failed = [heard for heard in evidence.heard if heard.reply is None]
    count = len(evidence.heard)
    if not failed:
        return Check("replies", PASS, f"{count} of {count} golden samples answered")
    why = "; ".join(dict.fromkeys(heard.error for heard in failed))
    return Check(
        "replies", FAIL, f"{len(failed)} of {count} golden samples got no answer, {failed[0].golden.where} first: {why}",
        "look at the server's log; a prompt too long for it needs a larger context (vLLM --max-model-len, "
        "llama-server -c), a slow one a larger --timeout here",
    )  # fmt: skip


def tokenizer(evidence: Evidence) -> Check:
    """Texts alone have the ids they had in training."""
    shown = [(text, wanted, got) for text, wanted, got in evidence.texts if got is not None]
    if not shown:
        return Check("tokenizer", UNKNOWN, "the server does not show the token ids of a text")
    wrong = [(text, wanted, got) for text, wanted, got in shown if got != wanted]
    pairs = _prompts(evidence)
    # Alone, a text may begin otherwise (SentencePiece's space before it): inside a conversation it counts.
    if not wrong or (pairs and all(wanted == got for _, wanted, got in pairs)):
        return Check("tokenizer", PASS, f"{len(shown)} of {len(shown)} texts have the trained token ids")
    text, wanted, got = wrong[0]
    return Check(
        "tokenizer", FAIL, f"{len(wrong)} of {len(shown)} texts have other token ids; {text!r}: {_first(wanted, got)}",
        "serve with the bundle's own tokenizer files (vLLM, SGLang: --tokenizer BUNDLE); for GGUF convert the bundle "
        "again with the converter of the llama.cpp that serves it",
    )  # fmt: skip


def template(evidence: Evidence, tokens: Check) -> Check:
    """Conversations become the prompt ids that training and evaluation used."""
    fix = (
        "serve the bundle's chat_template.jinja (vLLM, SGLang: --chat-template; llama-server: --jinja "
        "--chat-template-file; Ollama: the bundle's Modelfile), and let nothing add a system message or a second BOS"
    )
    pairs = _prompts(evidence)
    if pairs:
        wrong = [pair for pair in pairs if pair[1] != pair[2]]
        if wrong and tokens.status == FAIL:
            return Check("template", UNKNOWN, "not judged before the tokenizer is right")
        if wrong:
            where, wanted, got = wrong[0]
            said = f"{len(wrong)} of {len(pairs)} conversations have other token ids; {where}: {_first(wanted, got)}"
            return Check("template", FAIL, said, fix)
        return Check("template", PASS, f"{len(pairs)} of {len(pairs)} conversations have the trained token ids")
    by_ids = [h for h in evidence.heard if h.raw]
    right_by_ids = [h for h in by_ids if h.raw and h.raw.text == h.golden.answer]
    if len(right_by_ids) >= 2 and 4 * len(by_ids) >= len(evidence.heard) and 4 * len(right_by_ids) >= 3 * len(by_ids):
        said = (
            f"{len(right_by_ids)} prompts are answered right as token ids and otherwise as messages: the server "
            "makes another prompt of them, or adds sampling of its own to chats"
        )
        return Check("template", FAIL, said, fix)
    counts = [(h.golden.where, len(h.golden.prompt_ids), h.reply.prompt_tokens) for h in evidence.heard if h.reply]
    counts += [(f"{probe.messages[-1]['content']!r}", len(probe.wanted), probe.count) for probe in evidence.probes]
    known = [(where, wanted, count) for where, wanted, count in counts if count]
    off = [(where, wanted, count) for where, wanted, count in known if wanted != count]
    if off:
        where, right, count = off[0]
        said = f"{len(off)} of {len(known)} conversations have another number of tokens; {where}: {count} instead of {right}"
        return Check("template", FAIL, said, fix)
    if known:
        said = f"{len(known)} of {len(known)} conversations have as many tokens as in training (ids are not shown)"
        return Check("template", PASS, said)
    if all(heard.exact for heard in evidence.heard):
        return Check("template", PASS, "neither ids nor counts are shown, but every answer is the golden one")
    return Check("template", UNKNOWN, "the server shows neither token ids nor their number")


def length(evidence: Evidence) -> Check:
    """No answer is cut before the evaluation's limit."""
    finished = [h for h in evidence.heard if h.reply and not h.reply.parsed]
    cut = [h for h in finished if h.reply and _cut(h.reply, h.golden.answer, evidence.facts.max_new_tokens)]
    if cut:
        heard = cut[0]
        assert heard.reply
        tokens = heard.reply.tokens or "?"
        return Check(
            "length", FAIL, f"{len(cut)} of {len(finished)} answers are cut before their end; {heard.golden.where}: "
            f"after {tokens} of {len(heard.golden.answer_ids)} tokens, {heard.reply.text[-30:]!r}",
            f"allow {evidence.facts.max_new_tokens} new tokens (the evaluation's max_new_tokens): the server or a "
            "gateway caps max_tokens, or its context is too small (vLLM --max-model-len, llama-server -c/-n)",
        )  # fmt: skip
    return Check("length", PASS, "no answer is cut before its end")


def stop(evidence: Evidence) -> Check:
    """Answers that ended by themselves end there, and nowhere before."""
    ended = [h for h in evidence.heard if h.reply and not h.reply.parsed and h.golden.finished]
    whole = [h for h in ended if h.reply and h.golden.answer and h.reply.text.startswith(h.golden.answer)]
    over = [h for h in whole if h.reply and (h.reply.reason == "length" or h.reply.text != h.golden.answer)]
    tokens = ", ".join(
        f"{name} ({i})" for name, i in zip(evidence.facts.stop_tokens, evidence.facts.stop_ids, strict=True)
    )
    if 2 * len(over) > len(whole) and 4 * len(over) >= len(ended):
        heard = over[0]
        assert heard.reply
        rest = heard.reply.text[len(heard.golden.answer) :]
        return Check(
            "stop", FAIL, f"{len(over)} of {len(whole)} answers go on after their end; {heard.golden.where}: "
            f"{rest[:40]!r} follows ({heard.reply.reason or 'no finish_reason'})",
            f"the server must stop at {tokens}: keep the bundle's generation_config.json beside the weights (vLLM: no "
            "--generation-config vllm), or name the stop (Ollama: PARAMETER stop; clients: stop)",
        )  # fmt: skip
    prefix = [h for h in ended if h.reply and h.reply.reason != "length" and h.golden.answer.startswith(h.reply.text)]
    early = [h for h in prefix if not h.exact and h.reply and h.reply.text]
    if 2 * len(early) > len(prefix) and 4 * len(early) >= len(ended):
        heard = early[0]
        assert heard.reply
        return Check(
            "stop", FAIL, f"{len(early)} of {len(ended)} answers stop early; {heard.golden.where}: after "
            f"{heard.reply.text[-30:]!r}", f"a stop string of the server cuts answers; leave only {tokens}",
        )  # fmt: skip
    if not whole:
        return Check("stop", UNKNOWN, "no answer came to the golden answer's end")
    return Check("stop", PASS, f"{len(whole)} of {len(whole)} answers that came to their end stopped there ({tokens})")


def sampling(evidence: Evidence, limits: Limits) -> Check:
    """The same question has the same answer: temperature 0 is honoured."""
    twice = [(h, h.reply, h.again) for h in evidence.heard if h.reply and h.again]
    if not twice:
        return Check("sampling", UNKNOWN, "nothing was asked twice")
    drift = drifted((first.text, second.text, first.tokens or len(h.golden.answer_ids)) for h, first, second in twice)
    changed = sum(first.text != second.text for _, first, second in twice)
    if drift.over(limits.divergence):
        return Check(
            "sampling", FAIL, f"{changed} of {len(twice)} questions asked twice at temperature 0 had two answers",
            "something before the model sets a temperature or ignores the one asked for: look at the gateway's and the "
            "server's default sampling",
        )  # fmt: skip
    return Check("sampling", PASS, f"{len(twice) - changed} of {len(twice)} questions asked twice had the same answer")


def _prompts(evidence: Evidence) -> list[tuple[str, Ids, Ids]]:
    """Where, wanted and shown ids of all conversations whose ids are shown."""
    pairs = [(h.golden.where, h.golden.prompt_ids, h.ids) for h in evidence.heard if h.ids is not None]
    probes = [(f"{p.messages[-1]['content']!r}", p.wanted, p.ids) for p in evidence.probes if p.ids is not None]
    return pairs + probes


def _cut(reply: Reply, wanted: str, limit: int) -> bool:
    """Whether an answer broke off before the limit that was asked for."""
    begun = len(reply.text) < len(wanted) and wanted.startswith(reply.text) and reply.text != ""
    return begun and reply.reason == "length" and (reply.tokens or 0) < limit


def _first(wanted: Ids, got: Ids) -> str:
    """Where two lists of ids part, with what stands there."""
    at = next((i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), min(len(wanted), len(got)))
    shown = [str(list(ids[at : at + 4])) if at < len(ids) else "the end" for ids in (got, wanted)]
    return f"from token {at} on {shown[0]} instead of {shown[1]} ({len(got)} tokens instead of {len(wanted)})"
