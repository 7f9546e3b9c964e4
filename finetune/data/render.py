"""One tokenizer's chat template: what it renders, and what it is found to do when asked with small conversations."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from finetune.data.escape import ControlTokens
from finetune.data.rows import Message

ROLES = ("system", "user", "assistant", "tool")
_PROBE = "\U00100000"
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)


class TemplateRefusalError(Exception):
    """The template can't render these messages; the text says why, in the template's own words."""


class ChatTemplate:
    """Renders conversations; every other answer is learnt from renders, none from a list of model names."""

    def __init__(self, tokenizer: Any, control: ControlTokens) -> None:
        from jinja2 import TemplateError

        self.tokenizer = tokenizer
        self.control = control
        special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self.special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")
        self._refusals = (TemplateError, TypeError, ValueError, LookupError, AttributeError)

    def render(self, messages: Sequence[Message], tools: Sequence[Any] = (), prompt: bool = False) -> str:
        """The conversation as text; with the opening of the assistant's next turn when `prompt`.

        Raises:
            TemplateRefusalError: the template does not take these messages.
        """
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), tools=list(tools) or None, tokenize=False, add_generation_prompt=prompt
            )
        except self._refusals as error:
            raise TemplateRefusalError(str(error) or type(error).__name__) from None

    def render_many(self, conversations: Sequence[Sequence[Message]]) -> list[str]:
        """`render` of many conversations without tools, which as one call costs less; `train` keys are left out.

        Raises:
            TemplateRefusalError: the template does not take one of them.
        """
        shown = [
            [
                {k: v for k, v in message.items() if k != "train"} if "train" in message else message
                for message in messages
            ]
            for messages in conversations
        ]
        try:
            texts: list[str] = self.tokenizer.apply_chat_template(shown, tokenize=False) if shown else []
            return texts
        except self._refusals as error:
            raise TemplateRefusalError(str(error) or type(error).__name__) from None

    @cached_property
    def reasoning_key(self) -> str | None:
        """The message key whose text the template shows as reasoning; None when it shows none."""
        for key in ("reasoning_content", "reasoning", "thinking"):
            if _PROBE in self._probe({"role": "assistant", "content": "b", key: _PROBE}):
                return key
        return None

    @cached_property
    def content_parts(self) -> bool:
        """Whether content must be a list of typed parts (templates of models that also see images) and not text."""
        shown = []
        for content in (_PROBE, [{"type": "text", "text": _PROBE}]):
            try:
                render = self.render([{"role": role, "content": content} for role in ("user", "assistant")])
                shown.append(render.count(_PROBE) == 2)
            except TemplateRefusalError:
                shown.append(False)
        return shown == [False, True]

    @cached_property
    def text_arguments(self) -> bool:
        """Whether a tool call's arguments must be JSON text (DeepSeek) and not an object."""
        return not self._shows_call({"x": "y"}) and self._shows_call('{"x": "y"}')

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the tools on offer reach the model. A template that refuses the probe says so when it is used."""
        name = "shown_to_models"
        tool = {"name": name, "description": "d", "parameters": {"type": "object", "properties": {}}}
        user = self._with_parts({"role": "user", "content": "a"})
        try:
            return name in self.render([user], [{"type": "function", "function": tool}], prompt=True)
        except TemplateRefusalError:
            return True

    @cached_property
    def shows_calls(self) -> bool:
        """Whether the calls of earlier turns reach the model."""
        return self._shows_call({"x": "y"}) or self._shows_call('{"x": "y"}')

    def _shows_call(self, arguments: Any) -> bool:
        call = {"id": "c00000001", "type": "function", "function": {"name": _PROBE, "arguments": arguments}}
        return _PROBE in self._probe({"role": "assistant", "content": "", "tool_calls": [call]})

    @cached_property
    def around_answer(self) -> tuple[str, str]:
        """What a last turn of plain text has between the prompt and its text, and after its text."""
        whole = self._probe({"role": "assistant", "content": _PROBE})
        try:
            prompt = self.render([self._with_parts({"role": "user", "content": "a"})], prompt=True)
        except TemplateRefusalError:
            return "", ""
        if not whole.startswith(prompt) or whole.count(_PROBE) != 1:
            return "", ""
        lead, _, closing = whole[len(prompt) :].partition(_PROBE)
        return lead, closing

    def next_header(self, after_call: bool) -> str | None:
        """The control token right after an assistant's text when somebody else speaks next.

        A template without an end-of-turn token (GLM-4) tells its model to stop by that token.
        """
        return self._header_after_call if after_call else self._header_after_text

    @cached_property
    def _header_after_text(self) -> str | None:
        return self._header(self._probe({"role": "assistant", "content": _PROBE}, {"role": "user", "content": "c"}))

    @cached_property
    def _header_after_call(self) -> str | None:
        arguments = json.dumps({"x": _PROBE}, ensure_ascii=False) if self.text_arguments else {"x": _PROBE}
        call = {"id": "c00000001", "type": "function", "function": {"name": "f", "arguments": arguments}}
        answer = {"role": "tool", "content": "c", "name": "f", "tool_call_id": "c00000001"}
        return self._header(self._probe({"role": "assistant", "content": "", "tool_calls": [call]}, answer), False)

    def _header(self, render: str, directly: bool = True) -> str | None:
        match = self.special.search(render, render.rfind(_PROBE) + 1) if _PROBE in render else None
        if match is None or (directly and not render[: match.start()].endswith(_PROBE)):
            return None
        return match[0]

    def _probe(self, *messages: Message) -> str:
        """A user's line and these messages, rendered; empty when the template refuses them."""
        try:
            return self.render([self._with_parts(m) for m in ({"role": "user", "content": "a"}, *messages)])
        except TemplateRefusalError:
            return ""

    def prepared(self, message: Message) -> Message:
        """A message in the shape this template reads: thoughts in their own key, arguments as object or text."""
        if message["role"] != "assistant":
            return self._with_parts(message)
        message = {key: value for key, value in message.items() if key != "train"}
        content, key = message.get("content"), self.reasoning_key
        if key and isinstance(content, str) and "</think>" in content and not message.get("reasoning_content"):
            match = _THOUGHT.fullmatch(content)
            if match and "</think>" not in match[2]:
                message |= {"reasoning_content": match[1].strip("\n"), "content": match[2].lstrip("\n")}
        if key not in (None, "reasoning_content") and isinstance(message.get("reasoning_content"), str):
            thought = message.pop("reasoning_content")
            if thought:
                message[key] = thought
        if message.get("tool_calls"):
            message["tool_calls"] = [self._call(call) for call in message["tool_calls"]]
        elif "tool_calls" in message:
            del message["tool_calls"]  # some templates ask only whether the key is there
        return self._with_parts(message)

    def _with_parts(self, message: Message) -> Message:
        if not self.content_parts or not isinstance(message.get("content"), str):
            return message
        return {**message, "content": [{"type": "text", "text": message["content"]}]}

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        function = call.get("function", call)
        arguments = function.get("arguments", {})
        if isinstance(arguments, str) and not self.text_arguments:
            try:
                parsed = json.loads(arguments)
            except ValueError:
                parsed = None
            arguments = parsed if isinstance(parsed, dict) else arguments
        elif not isinstance(arguments, str) and self.text_arguments:
            arguments = json.dumps(arguments, ensure_ascii=False)
        extra = {key: value for key, value in call.items() if key not in ("function", "name", "arguments")}
        return {"type": "function", **extra, "function": {**function, "arguments": arguments}}
