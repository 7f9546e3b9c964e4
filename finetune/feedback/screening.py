"""What is looked for in judged answers before any is used: personal data and secrets, held-out prompts, near copies."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from finetune.data.duplicates import NearIndex, find_boilerplate, message_texts, near_text, normalise
from finetune.data.personal import LABELS, PERSONAL, SECRETS, mask, private_in_message, redact_sample
from finetune.data.prepare import prepare
from finetune.data.rows import Message, Sample
from finetune.errors import DataError
from finetune.feedback.entry import Entry, answer_key, prompt_key
from finetune.feedback.log import LeftOut
from finetune.feedback.rows import SFT, Made
from finetune.feedback.settings import Settings
from finetune.recipefile import load_recipe

Asked = tuple[tuple[str, ...], ...]  # role and normalised texts of each message but the system's


def without_private(entries: Iterable[Entry], settings: Settings, left_out: list[LeftOut]) -> list[Entry]:
    """Entries with private data replaced by `[PHONE]` and the like, or without those that have it.

    Redacting keeps a value that is copied from the prompt the same on both sides. An answer that holds a value which the
    prompt has not is left out under `redact` too: a model would learn to write the label.

    Raises:
        DataError: every find, masked, where the option says `error`.
    """
    policies = {
        **dict.fromkeys(PERSONAL, ("personal_data", settings.personal_data)),
        **dict.fromkeys(SECRETS, ("secrets", settings.secrets)),
    }
    kept, problems = [], []
    for entry in entries:
        found = _finds(entry)
        reasons: dict[str, str] = {}
        for place, kind, value in found:
            reason, policy = policies[kind]
            told = f"{place}: {kind}: {mask(value)}"
            if policy == "error":
                problems.append(f"{entry.where}: {told}")
            elif policy == "drop" or (policy == "redact" and _only_answered(value, place, found)):
                reasons.setdefault(reason, told)
        if reasons:
            reason = "secrets" if "secrets" in reasons else "personal_data"
            left_out.append(entry.left_out(reason, reasons[reason]))
        else:
            kept.append(_redacted(entry, {kind for _, kind, _ in found if policies[kind][1] == "redact"}))
    if problems:
        raise DataError([*problems[:50], f"{len(problems)} found; `redact` replaces them, `drop` leaves such rows out"])
    return kept


def _finds(entry: Entry) -> list[tuple[str, str, str]]:
    """(prompt, answer or correction; kind; value) of each find."""
    places = [("prompt", item) for item in entry.prompt]
    places += [(name, item) for name, item in (("answer", entry.answer), ("correction", entry.correction)) if item]
    return [
        (place, match.kind, text[match.start : match.end])
        for place, message in places
        for text, match in private_in_message(message)
    ]


def _only_answered(value: str, place: str, found: list[tuple[str, str, str]]) -> bool:
    return place != "prompt" and not any(other == value for where, _, other in found if where == "prompt")


def _redacted(entry: Entry, kinds: Collection[str]) -> Entry:
    if not kinds:
        return entry
    answers = [item for item in (entry.answer, entry.correction) if item]
    done = redact_sample(Sample({}, (*entry.prompt, *answers), "", entry.tools), kinds)
    rest: list[Message] = list(done.messages[len(entry.prompt) :])
    answer = rest.pop(0) if entry.answer else None
    correction = rest.pop(0) if entry.correction else None
    named = tuple(sorted(LABELS[kind] for kind in kinds))
    prompt = done.messages[: len(entry.prompt)]
    return replace(entry, prompt=prompt, answer=answer, correction=correction, tools=done.tools, redacted=named)


def held_out_prompts(recipe: Path) -> dict[Asked, str]:
    """What is asked in the held-out rows of a recipe (of every stage or part), and where the first of these stands.

    Raises:
        RecipeError, DataError: the recipe or its data are wrong.
    """
    loaded = load_recipe(recipe)
    found: dict[Asked, str] = {}
    for stage in loaded.stages or loaded.mixture or (loaded,):
        for sample in prepare(stage.data, stage.seed, stage.stage, stage.settings).evaluate:
            for end, message in enumerate(sample.messages):
                if (
                    message["role"] == "assistant"
                    and message.get("train", True)
                    and (key := asked(sample.messages[:end]))
                ):
                    found.setdefault(key, sample.where)
    return found


def asked(prompt: Sequence[Message]) -> Asked:
    """A prompt but for case, width, white space and its system message, which changes from release to release."""
    said = [item for item in prompt if item["role"] != "system"]
    return tuple((item["role"], *map(normalise, message_texts(item))) for item in said)


def without_held_out(entries: Iterable[Entry], held_out: dict[Asked, str], left_out: list[LeftOut]) -> list[Entry]:
    kept = []
    for entry in entries:
        twin = held_out.get(asked(entry.prompt))
        if twin is None:
            kept.append(entry)
        else:
            left_out.append(entry.left_out("held_out", f"as {twin}"))
    return kept


def without_near(
    entries: Sequence[Entry], made: Sequence[Made], threshold: float, left_out: list[LeftOut]
) -> list[Entry]:
    """Entries but those of answers that would be trained and are nearly the same text as an earlier one.

    Args:
        made: the rows that the entries give as they are.
    """
    trained = [item for item in made if item.file == SFT]
    texts = [near_text(Sample({}, tuple(item.values["messages"]), "")) for item in trained]
    index = NearIndex(threshold, find_boilerplate(list(dict.fromkeys(texts))))
    near: dict[tuple[bytes, str], str] = {}
    for number, (item, text) in enumerate(zip(trained, texts, strict=True)):
        twin = index.nearest(text)
        if twin is None:
            index.add(number, text)
        else:
            told = f"as {trained[twin[0]].entries[0].where} (Jaccard index {twin[1]:.2f})"
            near[_answer_of(item.entries[0])] = told
    kept = []
    for entry in entries:
        detail = near.get(_answer_of(entry))
        if detail is None:
            kept.append(entry)
        else:
            left_out.append(entry.left_out("near_duplicate", detail))
    return kept


def _answer_of(entry: Entry) -> tuple[bytes, str]:
    return prompt_key(entry), answer_key(entry.answer)
