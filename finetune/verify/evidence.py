"""What a server, or a folder, says to the golden samples. Everything is asked here; checks.py only looks at it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from finetune.data.rows import Message
from finetune.evaluate.callforms import answer_text
from finetune.verify.golden import Facts, Golden
from finetune.verify.wire import Reply, ServerError

AGAIN, BY_IDS, BASE = 4, 8, 4  # how many samples are asked twice, by their token ids, of the base

Ids = tuple[int, ...]


class Served(Protocol):
    """A model that answers: client.Server over HTTP, folder.Folder on this machine."""

    where: str
    model: str
    engine: str

    def ask(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], max_tokens: int) -> Reply: ...
    def ask_whole(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], max_tokens: int) -> Reply: ...
    def ask_ids(self, ids: Sequence[int], max_tokens: int) -> Reply | None: ...
    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> Ids | None: ...
    def text_ids(self, text: str) -> Ids | None: ...
    def relatives(self) -> list[str]: ...


@dataclass
class Heard:
    """One golden sample and what came back.

    Attributes:
        reply: None with the reason in `error`.
        again: the same question once more, in one piece; None when not asked.
        raw: the answer to the golden prompt ids; None when not asked or not taken.
        ids: the server's own ids of the conversation; None when it does not show them.
        base: what the base at the same server answers; None when there is none or it was not asked.
    """

    golden: Golden
    reply: Reply | None = None
    error: str = ""
    again: Reply | None = None
    raw: Reply | None = None
    ids: Ids | None = None
    base: str | None = None

    @property
    def exact(self) -> bool:
        return self.reply is not None and self.reply.text == self.golden.answer


@dataclass(frozen=True)
class Seen:
    """A probe conversation: the ids it should have, those the server shows, or else how many it counts."""

    messages: tuple[Message, ...]
    wanted: Ids
    ids: Ids | None
    count: int | None


@dataclass(frozen=True)
class Load:
    """The golden samples asked `clients` at a time: answers (None: failed) in their order, and how long it took."""

    clients: int
    replies: list[Reply | None]
    seconds: float


@dataclass
class Evidence:
    """All that the checks look at. `texts`: text, its ids, the server's ids or None."""

    facts: Facts
    heard: list[Heard]
    probes: list[Seen] = field(default_factory=list)
    texts: list[tuple[str, Ids, Ids | None]] = field(default_factory=list)
    load: Load | None = None
    engine: str = ""


def gather(served: Served, facts: Facts, goldens: Sequence[Golden], clients: int) -> Evidence:
    """Asks everything, one request after the other but for the load of `clients` at a time."""
    evidence = Evidence(facts, [_ask(served, golden, facts.max_new_tokens) for golden in goldens], engine=served.engine)
    answered = [heard for heard in evidence.heard if heard.reply is not None]
    if not answered:
        return evidence
    for heard in answered:
        heard.ids = served.prompt_ids(heard.golden.messages, heard.golden.tools)
    for probe in facts.probes:
        ids = served.prompt_ids(probe.messages, ())
        count = _count(served, probe.messages) if ids is None else None
        evidence.probes.append(Seen(probe.messages, probe.prompt_ids, ids, count))
    evidence.texts = [(text, ids, served.text_ids(text)) for text, ids in facts.texts]
    for heard in answered[:AGAIN]:
        again = _quietly(served.ask_whole, heard.golden.messages, heard.golden.tools, facts.max_new_tokens)
        heard.again = said(again, heard.golden)
    differing = [heard for heard in answered if not heard.exact]
    for heard in differing[:BY_IDS]:
        heard.raw = said(served.ask_ids(heard.golden.prompt_ids, facts.max_new_tokens), heard.golden)
    _ask_base(served, differing[:BASE], facts.max_new_tokens)
    if clients > 1:
        evidence.load = _load(served, goldens, facts.max_new_tokens, clients)
    return evidence


def _ask(served: Served, golden: Golden, max_tokens: int) -> Heard:
    try:
        return Heard(golden, said(served.ask(golden.messages, golden.tools, max_tokens), golden))
    except ServerError as error:
        return Heard(golden, error=str(error))


def said(reply: Reply | None, golden: Golden) -> Reply | None:
    """A reply whose text may be a tool call that the server has not read: in canonical form, as the golden answer is."""
    if reply is None or not golden.tools or reply.parsed:
        return reply
    return replace(reply, text=answer_text(reply.text, reply.text, golden.tools))


def _quietly(ask: Any, *arguments: Any) -> Reply | None:
    try:
        return ask(*arguments)
    except ServerError:
        return None


def _count(served: Served, messages: Sequence[Message]) -> int | None:
    reply = _quietly(served.ask_whole, messages, (), 1)
    return reply.prompt_tokens if reply else None


def _ask_base(served: Served, heard: Sequence[Heard], max_tokens: int) -> None:
    """Where the bundle holds no answers of the base, a base at the same server is asked."""
    unknown = [item for item in heard if item.golden.base_answer is None]
    for name in served.relatives() if unknown else ():
        tuned, served.model = served.model, name
        for item in unknown:
            reply = _quietly(served.ask, item.golden.messages, item.golden.tools, max_tokens)
            heard_base = said(reply, item.golden)
            item.base = heard_base.text if heard_base else None
        served.model = tuned


def _load(served: Served, goldens: Sequence[Golden], max_tokens: int, clients: int) -> Load:
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        replies = list(pool.map(lambda golden: _ask(served, golden, max_tokens).reply, goldens))
    return Load(clients, replies, time.perf_counter() - started)
