"""Checks of what comes out: adapter, weights, scores, speed. Pure functions from evidence to a Check."""

from __future__ import annotations

from finetune.evaluate.metrics import mean
from finetune.verify.check import FAIL, PASS, UNKNOWN, Check, Limits
from finetune.verify.evidence import Evidence, Heard
from finetune.verify.measure import SPARE_FROM, drifted, logprob_gap, scored, speed

ANOTHER_MODEL = 0.2  # partings a token from which on it is not this model's arithmetic but another model
FAR = 0.5  # mean difference of log-probabilities (nats) on tokens that are the same


def effect(evidence: Evidence, limits: Limits, broken: str) -> Check:
    """The answers are not those of the base."""
    telling, tuned, base = [], [], []
    if broken == "sampling":
        return Check("effect", UNKNOWN, "not judged before sampling is right")
    for heard, text in _texts(evidence, broken):
        of_base = heard.golden.base_answer if heard.golden.base_answer is not None else heard.base
        if of_base is None or of_base == heard.golden.answer:
            continue
        each = len(heard.golden.answer_ids) / max(len(heard.golden.answer), 1)  # tokens a character
        telling.append(heard)
        tuned.append((text, heard.golden.answer, len(heard.golden.answer_ids)))
        base.append((text, of_base, max(1, round(each * len(of_base)))))
    if not telling:
        why = f"not judged before {broken} is right" if broken else "no answers of the base to compare with"
        return Check("effect", UNKNOWN, why)
    count = len(telling)
    like_tuned, like_base = drifted(tuned), drifted(base)
    if not like_tuned.over(limits.divergence) or 2 * like_tuned.rate < like_base.rate:
        said = f"{count} prompts that the base answers otherwise: answers are the tuned model's"
        return Check("effect", PASS, said)
    if like_base.rate < like_tuned.rate / 2:
        return Check(
            "effect", FAIL, f"the adapter has no effect: {count - like_base.parted} of {count} prompts that base and tuned "
            f"model answer differently are answered like the base; {telling[0].golden.where}: {tuned[0][0][:40]!r}",
            "ask the adapter's name (vLLM: --lora-modules NAME=FOLDER, then --model NAME here), check its alpha and "
            "rank against what the engine reads, or serve the merged model",
        )  # fmt: skip
    return Check("effect", UNKNOWN, "answers are neither the tuned model's nor the base's")


def model(evidence: Evidence, limits: Limits, broken: str) -> Check:
    """Given the right prompt, the answers are not those of some other model."""
    pairs = _texts(evidence, broken)
    unseen = broken and not any(heard.raw for heard in evidence.heard) and not all(h.exact for h in evidence.heard)
    if broken in ("effect", "sampling", "tokenizer") or unseen or not pairs:
        return Check("model", UNKNOWN, f"not judged before {broken or 'the answers'} is right")
    drift = drifted((text, h.golden.answer, len(h.golden.answer_ids)) for h, text in pairs)
    gap = logprob_gap(evidence.heard)
    seen = f", log-probabilities {gap[0]:.2g} nats off in {gap[1]} tokens" if gap else ""
    said = f"{drift.texts - drift.parted} of {drift.texts} golden answers, partings {drift.rate:.3f} a token{seen}"
    if drift.over(ANOTHER_MODEL) or (gap and gap[0] > FAR):
        base = evidence.facts.base.get("name_or_path", "?")
        return Check(
            "model", FAIL, f"another model answers: {said}",
            f"serve the bundle's merged weights and tokenizer, or its adapter on its own base ({base}; MANIFEST.json has its "
            "commit or sha256)",
        )  # fmt: skip
    return Check("model", PASS, said)


def answers(evidence: Evidence, limits: Limits) -> Check:
    """Scores and texts of what clients get lie within the limits."""
    pairs = _texts(evidence, "")
    if not pairs:
        return Check("answers", UNKNOWN, "the server takes every answer apart (tool calls, thoughts)")
    was, now = (mean(rows) for rows in scored([(heard.golden, text) for heard, text in pairs]))
    names = [name for name in was if "/" not in name]
    spare = 1 / len(pairs) if len(pairs) >= SPARE_FROM else 0.0
    tolerance = max(0.02, spare) if limits.tolerance is None else limits.tolerance
    fallen = [name for name in names if was[name] - now[name] > tolerance + 1e-9]
    drift = drifted((text, h.golden.answer, len(h.golden.answer_ids)) for h, text in pairs)
    exact = 1 - drift.parted / drift.texts
    said = (
        f"{drift.texts - drift.parted} of {drift.texts} to the letter, partings {drift.rate:.3f} a token; "
        + ", ".join(f"{name} {now[name]:.3f} (was {was[name]:.3f})" for name in names)
    )
    wrong = [f"{name} fell by {was[name] - now[name]:.3f}, allowed {tolerance:.3f}" for name in fallen]
    if drift.over(limits.divergence):
        wrong.append(f"partings {drift.rate:.3f} a token, allowed {limits.divergence:g}")
    if limits.exact is not None and exact < limits.exact:
        wrong.append(f"{exact:.3f} to the letter, at least {limits.exact:g} wanted")
    if wrong:
        fix = (
            "mend what fails above first; if nothing does, the weights or their arithmetic differ: serve the evaluated "
            f"dtype ({evidence.facts.dtype}), or accept a quantised form with --tolerance and --divergence"
        )
        return Check("answers", FAIL, f"{'; '.join(wrong)}: {said}", fix)
    return Check("answers", PASS, said)


def latency(evidence: Evidence, limits: Limits) -> Check:
    """Time to the first token and tokens a second, one request at a time."""
    numbers = speed([heard.reply for heard in evidence.heard])
    said = (
        f"first token {numbers['first_p50']:.3f} s (p95 {numbers['first_p95']:.3f} s), answer {numbers['seconds_p50']:.2f} s "
        f"(p95 {numbers['seconds_p95']:.2f} s), {numbers['tokens_per_second']:.1f} tokens/s"
    )
    slow = []
    if limits.first is not None and numbers["first_p95"] > limits.first:
        slow.append(f"first token later than {limits.first:g} s")
    if limits.speed is not None and numbers["tokens_per_second"] < limits.speed:
        slow.append(f"fewer than {limits.speed:g} tokens/s")
    if slow:
        return Check(
            "latency", FAIL, f"{', '.join(slow)}: {said}", "more or faster devices, or a smaller form of the model"
        )
    return Check("latency", PASS, said)


def load(evidence: Evidence, limits: Limits) -> Check:
    """With several clients at once the answers stay the same."""
    assert evidence.load
    done = [reply for reply in evidence.load.replies if reply]
    tokens = sum(reply.tokens or 0 for reply in done)
    numbers = speed(done) if done else {"first_p95": 0.0}
    said = (
        f"{evidence.load.clients} at a time: {tokens / evidence.load.seconds:.1f} tokens/s together, first token p95 "
        f"{numbers['first_p95']:.3f} s"
    )
    if len(done) < len(evidence.load.replies):
        said = f"{len(evidence.load.replies) - len(done)} of {len(evidence.load.replies)} requests failed; {said}"
        return Check("load", FAIL, said, "look at the server's log; fewer sequences at once (vLLM --max-num-seqs)")
    both = [(h, h.reply, now) for h, now in zip(evidence.heard, evidence.load.replies, strict=True) if h.reply and now]
    drift = drifted((now.text, alone.text, alone.tokens or len(h.golden.answer_ids)) for h, alone, now in both)
    if drift.over(limits.divergence):
        said = f"{drift.parted} of {drift.texts} answers change when asked together; {said}"
        return Check("load", FAIL, said, "a fault of batching (padding, caches): report it to the engine")
    return Check("load", PASS, said)


def _texts(evidence: Evidence, broken: str) -> list[tuple[Heard, str]]:
    """What to compare of each sample: the chat's answer, or, where the chat is no witness, that to the prompt ids."""
    pairs = []
    for heard in evidence.heard:
        if heard.reply and not heard.reply.parsed and (heard.exact or not broken):
            pairs.append((heard, heard.reply.text))
        elif heard.raw:
            pairs.append((heard, heard.raw.text))
    return pairs
