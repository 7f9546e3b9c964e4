"""`finetune chat RUN|BUNDLE`: what is typed, piped or given by --ask goes to base and tuned model, side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from finetune.chat.screen import Screen
from finetune.chat.session import Session, open_session
from finetune.errors import RecipeError
from finetune.told import tell
from finetune.verify.wire import ServerError

HELP = """\
/new            begin another conversation
/sample [N]     ask the N-th held-out prompt of the evaluation (default: the next one)
/system [TEXT]  begin another with this system message (none: without one)
/quit           leave (so does Ctrl-D)"""


def chat_command(options: argparse.Namespace) -> None:
    """A conversation until the end of the input, or the messages of --ask and the samples of --sample.

    Raises:
        RecipeError: no such model, or one that can't be loaded; a message of --ask that it does not take.
    """
    asked = [*options.ask, *(f"/sample {number}" for number in options.sample)]
    session = open_session(options.place, options.alone, options.max_new_tokens, options.trust_remote_code)
    if options.system is not None:
        session.opening = _system(options.system)
    screen = Screen()
    told: list[dict[str, Any]] = []
    if not asked and sys.stdin.isatty():
        models = " and ".join(f"{who} ({model.where})" for who, model in session.models.items())
        screen.say(f"{models}; answers of up to {session.max_new_tokens} tokens, greedy")
        for message in session.opening:
            screen.say(f"{message['role']}, as in training: {message['content']}")
        screen.say("/help says what else can be typed")
    sample = 0
    for line in asked or _typed():
        word, _, rest = line.strip().partition(" ")
        if word == "/quit":
            break
        if word == "/help":
            screen.say(HELP)
        elif word == "/new":
            session.begin()
        elif word == "/system":
            session.opening = _system(rest)
            session.begin()
        elif word == "/sample":
            sample = _number(rest, sample + 1)
            _go_on(screen, told, asked, partial(_sample, session, screen, sample))
        elif word.startswith("/") and not asked:
            screen.say(f"{word}: no such word\n{HELP}")
        elif line.strip():
            _go_on(screen, told, asked, partial(_message, session, screen, line.strip()))
    tell(options.json, {"answers": told})


def _go_on(screen: Screen, told: list[dict[str, Any]], asked: list[str], ask: Callable[[], dict[str, Any]]) -> None:
    """A message that the models do not take ends a script, and not a conversation."""
    try:
        told.append(ask())
    except (ServerError, RecipeError) as error:
        if asked:
            raise RecipeError(str(error)) from None
        screen.say(f"{error}; /new begins another conversation")


def _message(session: Session, screen: Screen, text: str) -> dict[str, Any]:
    with screen.answers(list(session.models), session.max_new_tokens) as shown:
        replies = {who: session.ask(text, who, shown.hear(who)) for who in session.models}
        shown.end(replies)
    return {"message": text} | {who: reply.text for who, reply in replies.items()}


def _sample(session: Session, screen: Screen, number: int) -> dict[str, Any]:
    if not 1 <= number <= len(session.samples):
        raise RecipeError(f"/sample {number}: there are {len(session.samples)} held-out prompts")
    golden = session.samples[number - 1]
    screen.say(f"sample {number} of {len(session.samples)}, {golden.where}: {golden.messages[-1].get('content') or ''}")
    with screen.answers(list(session.models), session.max_new_tokens) as shown:
        replies = {who: session.ask_sample(golden, who, shown.hear(who)) for who in session.models}
        shown.end(replies, {"reference": golden.reference})
    told = {"sample": number, "where": golden.where, "reference": golden.reference}
    return told | {who: reply.text for who, reply in replies.items()}


def _system(text: str) -> tuple[dict[str, Any], ...]:
    return ({"role": "system", "content": text},) if text.strip() else ()


def _number(text: str, otherwise: int) -> int:
    return int(text) if text.isdecimal() else otherwise if not text else 0


def _typed() -> Iterator[str]:
    """Lines of the terminal, with its editing and history; of a pipe as they are."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    import readline  # noqa: F401  # input() then has arrows and history

    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
