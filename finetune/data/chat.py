"""Messages to token ids and labels, through the tokenizer's own chat template and nothing else.

Ids are those of the whole render, so they are what a server's `apply_chat_template` gives. Trained are the tokens that
begin inside a trained turn (see spans.py). A token that holds the last characters of the prompt and the first of the
answer is not trained: a server's prompt ends inside it, so the model is never asked for it. Positions decide, never
token ids, so a tokenizer whose pad is its eos (SmolLM2) still learns to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.data.escape import ControlTokens, holds_reserved
from finetune.data.render import ROLES, ChatTemplate, TemplateRefusalError
from finetune.data.rows import Message, Sample
from finetune.data.segments import RenderEncoder, Spans
from finetune.data.shapes import Shapes
from finetune.data.spans import Rendered, Turns, trained_renders
from finetune.errors import DataError, did_you_mean

IGNORED = -100  # label of a token that is not trained: torch's cross_entropy ignore_index


@dataclass(frozen=True)
class Example:
    """One encoded conversation or document; `labels[t]` is `ids[t]` where trained, else IGNORED (not yet shifted).

    It is also what the loop handles, an item (see items.py), where a stage trains on single conversations.

    Attributes:
        marks: of its Sample.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    where: str
    marks: tuple[float, ...] = ()

    @property
    def trained(self) -> int:
        return sum(label != IGNORED for label in self.labels)

    @property
    def stop(self) -> int:
        """Id of the last trained token: the one that ends the turn."""
        return next(label for label in reversed(self.labels) if label != IGNORED)

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.ids)

    @property
    def examples(self) -> tuple[Example, ...]:
        return (self,)

    def blank(self) -> Example:
        """The same with nothing to train on."""
        return replace(self, labels=(IGNORED,) * len(self.labels))


@dataclass(frozen=True)
class Encoded:
    """What became of one row. `plain`: it is known to hold text alone, no control token in it, no tools."""

    result: list[Example] | DataError
    plain: bool


class ChatEncoder:
    """Renders and encodes conversations with one tokenizer.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        train_on: `assistant` (every assistant turn that does not say `train: false`), `last_assistant` (the last of
            them), `all` (every token but those of messages that say `train: false`).
        special_tokens_in_data: control tokens in the text of rows are encoded as text (`escape`), refused (`error`)
            or left to act as control tokens (`allow`).

    Raises:
        DataError: the tokenizer has no chat template, or is not a fast one (no offsets).
    """

    def __init__(self, tokenizer: Any, train_on: str = "assistant", special_tokens_in_data: str = "escape") -> None:
        if not tokenizer.chat_template:
            raise DataError(f"the tokenizer of {tokenizer.name_or_path} has no chat template; use an instruct model")
        if not tokenizer.is_fast:
            raise DataError(f"the tokenizer of {tokenizer.name_or_path} is not a fast one (it gives no offsets)")
        self.tokenizer = tokenizer
        self.train_on = train_on
        self.special_tokens_in_data = special_tokens_in_data
        self.control = ControlTokens(tokenizer)
        self.template = ChatTemplate(tokenizer, self.control)
        self.tokens = RenderEncoder(tokenizer, self.control)
        self._ids_of = {token: tokenizer.convert_tokens_to_ids(token) for token in self.control.tokens}
        self.control_ids = set(self._ids_of.values())
        self._bos = tokenizer.bos_token_id
        self.shapes = Shapes(self.template, self._renders) if train_on != "all" else None

    def encode(self, sample: Sample) -> list[Example]:
        """Ids and labels of a conversation: one example, or one a trained turn where the template drops earlier
        thoughts (Qwen3), so that every turn is trained in the form in which the model will write it.

        Raises:
            DataError: the row can't be trained exactly as it stands; why, in one line.
        """
        result = self.encode_many([sample])[0]
        if isinstance(result, DataError):
            raise result
        return result

    def encode_many(self, samples: Sequence[Sample]) -> list[list[Example] | DataError]:
        """`encode` of many, tokenised in one call. A row that can't be encoded has its error in its place."""
        return [row.result for row in self.encode_rows(samples)]

    def encode_rows(self, samples: Sequence[Sample]) -> list[Encoded]:
        """`encode_many`, with what was seen of each row on the way."""
        known = self.shapes.render(samples) if self.shapes else [None] * len(samples)
        renders = [[render] if render else self._renders(sample) for sample, render in zip(samples, known, strict=True)]
        flat = [render for item in renders if not isinstance(item, DataError) for render in item]
        try:
            following = iter(self.tokens.encode(flat))
        except ValueError as error:  # a control token that can't be written as text: find its row
            if len(samples) == 1:
                return [Encoded(DataError(f"{samples[0].where}: {error}"), False)]
            return [self.encode_rows([sample])[0] for sample in samples]
        rows = []
        for sample, item, render in zip(samples, renders, known, strict=True):
            result: list[Example] | DataError
            if isinstance(item, DataError):
                result = item
            else:
                mine = [next(following) for _ in item]
                try:
                    result = [self._example(r, s, sample.where) for r, s in zip(item, mine, strict=True)]
                except DataError as error:
                    result = error
            rows.append(Encoded(result, render is not None))
        return rows

    def encode_prompt(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), where: str = "prompt"
    ) -> list[int]:
        """Ids a server feeds the model for these messages: rendered with the generation prompt.

        Raises:
            DataError: as `encode`.
        """
        ready, ready_tools = self._ready(messages, tools, where)
        try:
            text = self.template.render(ready, ready_tools, prompt=True)
            self._check_tools(ready, ready_tools, where)
            return self.tokens.encode([Rendered(text, ())])[0].ids
        except TemplateRefusalError as error:
            raise DataError(f"{where}: the chat template refuses the prompt: {error}") from None
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None

    def trained_turns(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Positions of the assistant messages that are trained."""
        turns = tuple(
            i for i, message in enumerate(messages) if message["role"] == "assistant" and message.get("train", True)
        )
        return turns[-1:] if self.train_on == "last_assistant" else turns

    def _renders(self, sample: Sample) -> list[Rendered] | DataError:
        try:
            messages, tools = self._ready(sample.messages, sample.tools, sample.where)
            if self.train_on == "all":
                renders = [self._everything(sample, messages, tools)]
                self._check_tools(messages, tools, sample.where)
                return renders
            trained = self.trained_turns(sample.messages)
            if not trained:
                raise DataError(f"{sample.where}: no assistant message to train on")
            for i in trained:
                message = sample.messages[i]
                if not (message.get("content") or "").strip() and not message.get("tool_calls"):
                    raise DataError(f"{sample.where}: the assistant's message is empty")
            renders = trained_renders(self.template, Turns(messages, tools, trained, sample.where))
            self._check_tools(messages, tools, sample.where)
            return renders
        except DataError as error:
            return error

    def _everything(self, sample: Sample, messages: list[Message], tools: Sequence[Any]) -> Rendered:
        """The whole render, less the turns of assistant messages that say `train: false`."""
        quiet = tuple(i for i, message in enumerate(sample.messages) if message.get("train") is False)
        if any(sample.messages[i]["role"] != "assistant" for i in quiet):
            raise DataError(f"{sample.where}: train_on: all takes `train: false` on assistant messages only")
        try:
            whole = self.template.render(messages, tools)
        except TemplateRefusalError as error:
            raise DataError(f"{sample.where}: the chat template refuses the conversation: {error}") from None
        if not quiet:
            return Rendered(whole, ((0, len(whole), ""),))
        renders = trained_renders(self.template, Turns(messages, tools, quiet, sample.where))
        if len(renders) > 1 or renders[0].text != whole:
            raise DataError(f"{sample.where}: train_on: all with `train: false` needs a prefix-stable chat template")
        kept, end = [], 0
        for left, right, _ in renders[0].trained:
            kept.append((end, left, ""))
            end = right
        return Rendered(whole, (*kept, (end, len(whole), "")))

    def _ready(
        self, messages: Sequence[Message], tools: Sequence[Any], where: str
    ) -> tuple[list[Message], Sequence[Any]]:
        """Messages and tools in the template's shape, control tokens in them treated by the policy."""
        _check_shape(messages, where)
        suspicious = self.control.suspicious((messages, tools))
        if suspicious and (holds_reserved(messages) or holds_reserved(tools)):
            raise DataError(f"{where}: a message holds a private-use character of U+100000 to U+10FFFF")
        if suspicious and self.special_tokens_in_data == "error":
            self._refuse(messages, tools, where)
        ready = [self.template.prepared(message) for message in messages]
        if suspicious and self.special_tokens_in_data == "escape":
            if self.control.in_keys((messages, tools)):
                raise DataError(f"{where}: a key of a tool or a tool call holds a control token of the tokenizer")
            return self.control.escaped(ready), self.control.escaped(list(tools))
        return ready, tools

    def _check_tools(self, messages: Sequence[Message], tools: Sequence[Any], where: str) -> None:
        """Raises DataError: a template that would lose the calls, or the tools, without a word."""
        if any(message.get("tool_calls") for message in messages) and not self.template.shows_calls:
            called = [bool(m.get("tool_calls")) for m in messages if m.get("role") == "assistant"].index(True) + 1
            raise DataError(f"{where}: the chat template does not show the tool call of assistant message {called}")
        if tools and not self.template.shows_tools:
            raise DataError(
                f"{where}: the chat template does not show the tools; take a base whose template knows tools"
            )

    def _refuse(self, messages: Sequence[Message], tools: Sequence[Any], where: str) -> None:
        """Raises when a message (in the shape that the template reads: known thoughts parsed out) holds one."""
        problems = []
        for message in messages:
            for token in dict.fromkeys(self.control.found_in(self.template.prepared(message))):
                problems.append(
                    f"{where}: the {message['role']} message holds the tokenizer's control token {token!r} as text"
                )
        for token in dict.fromkeys(self.control.found_in(list(tools))):
            problems.append(f"{where}: the tools hold the tokenizer's control token {token!r} as text")
        if problems:
            raise DataError(problems)

    def _example(self, render: Rendered, spans: Spans, where: str) -> Example:
        ids = tuple(spans.ids)
        if len(ids) > 1 and ids[0] == ids[1] == self._bos:
            raise DataError(f"{where}: the conversation begins with two {self.tokenizer.bos_token!r}")
        labels = [IGNORED] * len(ids)
        for (_, _, stop), (first, end) in zip(render.trained, spans.ranges, strict=True):
            if stop:
                stop_id = self._ids_of[stop]
                if end <= first or ids[end - 1] != stop_id:
                    raise DataError(f"{where}: the stop token {stop!r} of a turn is not a token of its own")
                if end > 1 and ids[end - 2] == stop_id:
                    raise DataError(f"{where}: a turn ends with two stop tokens {stop!r}")
            labels[first:end] = ids[first:end]
        if all(left >= right for left, right in spans.ranges):
            raise DataError(f"{where}: no token to train on")
        return Example(ids, tuple(labels), where)


def _check_shape(messages: Sequence[Message], where: str) -> None:
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise DataError(f"{where}: role {role!r} is not known{did_you_mean(str(role), ROLES)}")
        if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
            raise DataError(f"{where}: the {role} message's content must be text, got {type(content).__name__}")
