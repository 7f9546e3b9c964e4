"""Why a row gives nothing: the words in `left_out.jsonl`, with what each means."""

from __future__ import annotations

REASONS = {
    "malformed": "no log line (only with --broken drop)",
    "failed": "the request failed: there is an error or a status other than 200 in place of an answer",
    "not_chat": "another endpoint than chat completions",
    "no_request": "a response without its request: nobody knows what was asked",
    "no_response": "a request or a judgement that no response in these files belongs to",
    "which_choice": "several answers, and a judgement that does not say of which",
    "unrated": "nobody judged this answer",
    "between": "a rating that is neither good nor bad",
    "unfinished": "the answer was cut off (length) or filtered, and nobody corrected it",
    "no_answer": "the answer is empty, a refusal of the server or no text, and nobody corrected it",
    "untrainable": "a conversation that no chat template can hold: images, roles out of turn, calls that break their schema",
    "short_correction": "the correction is too short beside the answer: more likely a remark on it",
    "same_correction": "the correction is the answer that was given, which was not rated good",
    "personal_data": "personal data (with --personal-data drop), or in the answer only (with redact)",
    "secrets": "keys, tokens or passwords (with --secrets drop), or in the answer only (with redact)",
    "held_out": "the recipe holds out this prompt",
    "known": "an earlier import has this judgement (with --known)",
    "duplicate": "the same prompt, answer and judgement as another row",
    "near_duplicate": "nearly the same text as another row (with --near-duplicates)",
    "outvoted": "more people judged this answer the other way",
    "contradictory": "as many people judged this answer one way as the other, or it corrects one answer and was found bad itself",
}
