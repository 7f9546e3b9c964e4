"""Plain conversations of a shape that has been met before: one render tells where their trained turns are.

The roles of a conversation and the turns it trains are its shape. Where the chat template only passes text through
(see passthrough.py), two conversations of one shape are rendered alike but for their contents. So the ranges of a shape
are found once, the long way, in a conversation of place marks; every further one is rendered whole, must equal that
render with its contents in place of the marks, and its ranges follow. What does not fit goes the long way itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from finetune.data.escape import CLOSE
from finetune.data.passthrough import passes_text_through
from finetune.data.render import ROLES, ChatTemplate, TemplateRefusalError
from finetune.data.rows import Message, Sample
from finetune.data.spans import Rendered
from finetune.errors import DataError

MOST = 256  # shapes that are learnt; conversations of further ones go the long way
_FIRST = 0xF0000  # message i of a probe has this private-use character, plus i, for its content
_PLACE = re.compile("[\U000f0000-\U000fffff]")

Shape = tuple[str, ...]  # of each message the role, with "-" behind it where the turn is not trained


@dataclass(frozen=True)
class Plan:
    """The render of a shape: texts between the contents, and the trained ranges.

    Attributes:
        texts: what stands before the first content, between two, and after the last.
        order: which message's content stands at each place; one fewer than `texts`.
        trained: of each range its left and right border, and its stop token. A border is a number of characters of
            `texts` and a number of contents that lie before it.
    """

    texts: tuple[str, ...]
    order: tuple[int, ...]
    trained: tuple[tuple[tuple[int, int], tuple[int, int], str], ...]

    @classmethod
    def of(cls, probe: Rendered) -> Plan | None:
        """Read off the render of a probe; None when a range holds another message's content besides its own."""

        def border(place: int) -> tuple[int, int]:
            before = len(_PLACE.findall(probe.text, 0, place))
            return place - before, before

        trained = tuple((border(left), border(right), stop) for left, right, stop in probe.trained)
        if CLOSE in probe.text or any(right[1] - left[1] != 1 for left, right, _ in trained):
            return None
        order = tuple(ord(mark) - _FIRST for mark in _PLACE.findall(probe.text))
        return cls(tuple(_PLACE.split(probe.text)), order, trained)

    def filled(self, contents: Sequence[str]) -> Rendered:
        """The render with these contents, and its ranges."""
        placed = [contents[i] for i in self.order]
        text = self.texts[0] + "".join([part for pair in zip(placed, self.texts[1:], strict=True) for part in pair])
        before = [0, *accumulate(map(len, placed))]  # [k]: characters of the first k contents
        return Rendered(
            text,
            tuple((left + before[m], right + before[n], stop) for (left, m), (right, n), stop in self.trained),
        )


class Shapes:
    """Renders plain conversations of one template.

    Args:
        slowly: the long way from a sample to its renders.
    """

    def __init__(self, template: ChatTemplate, slowly: Callable[[Sample], list[Rendered] | DataError]) -> None:
        self.template = template
        self._slowly = slowly
        self.plans: dict[Shape, Plan | None] = {}
        source = template.tokenizer.chat_template
        self._serves = (
            isinstance(source, str)
            and template.reasoning_key is None
            and not template.content_parts
            and passes_text_through(source)
        )

    def render(self, samples: Sequence[Sample]) -> list[Rendered | None]:
        """One Rendered a sample, as the long way gives it; None where only the long way can tell."""
        found: list[Rendered | None] = [None] * len(samples)
        if not self._serves:
            return found
        for i, sample in enumerate(samples):
            if (shape := self._shape(sample)) and (plan := self._plan(shape)):
                found[i] = plan.filled([message["content"] for message in sample.messages])
        chosen = [i for i, expected in enumerate(found) if expected]
        try:
            texts = self.template.render_many([samples[i].messages for i in chosen])
        except TemplateRefusalError:
            return [None] * len(samples)
        for i, text in zip(chosen, texts, strict=True):
            expected = found[i]
            if expected is None or expected.text != text:
                found[i] = None
        return found

    def _shape(self, sample: Sample) -> Shape | None:
        """None for a conversation that is not plain: with tools, keys beyond role, content and the assistant's `train`,
        empty text, outer white space, or a control token in it."""
        if sample.tools:
            return None
        shape = []
        for message in sample.messages:
            role, content = message.get("role"), message.get("content")
            trains = message.get("train", True)
            keys = 3 if role == "assistant" and "train" in message else 2
            if role not in ROLES or type(content) is not str or len(message) != keys:
                return None
            if not content or content != content.strip() or self.template.control.in_text(content):
                return None
            shape.append(role if trains else f"{role}-")
        return tuple(shape)

    def _plan(self, shape: Shape) -> Plan | None:
        if shape not in self.plans:
            if len(self.plans) >= MOST:
                return None
            self.plans[shape] = self._learnt(shape)
        return self.plans[shape]

    def _learnt(self, shape: Shape) -> Plan | None:
        messages: list[Message] = []
        for i, entry in enumerate(shape):
            quiet = {"train": False} if entry.endswith("-") else {}
            messages.append({"role": entry.removesuffix("-"), "content": chr(_FIRST + i), **quiet})
        renders = self._slowly(Sample({}, tuple(messages), "probe"))
        if isinstance(renders, DataError) or len(renders) != 1:
            return None
        whole = self.template.render_many([messages])[0]
        return Plan.of(renders[0]) if renders[0].text == whole else None
