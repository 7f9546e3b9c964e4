"""A conversation that base and tuned model are both in: each goes on from its own answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.rows import Message
from finetune.errors import RecipeError
from finetune.verify.golden import FACTS, SAMPLES, Golden, read_facts, read_golden
from finetune.verify.wire import Reply, ServerError

if TYPE_CHECKING:
    from finetune.verify.folder import Folder

BASE, TUNED = "base", "tuned"
INITIAL = "adapter/initial.safetensors"  # of an adapter for which the base was changed


@dataclass
class Session:
    """Both models, and what has been said.

    Attributes:
        models: by BASE and TUNED, or TUNED alone.
        opening: messages that every conversation begins with, as the training's did.
        samples: held-out prompts of the evaluation.
        said: the conversation of each side after the opening.
    """

    models: dict[str, Folder]
    opening: tuple[Message, ...]
    samples: Sequence[Golden]
    max_new_tokens: int
    said: dict[str, list[Message]] = field(default_factory=dict)

    def begin(self) -> None:
        """Forget what was said."""
        self.said = {who: [] for who in self.models}

    def ask(self, text: str, who: str, hear: Callable[[str], None] | None = None) -> Reply:
        """One side's answer to a user's message, which both stay in its conversation.

        Raises:
            ServerError: the chat template refuses the messages, or they leave no room for an answer.
        """
        messages = [*self.opening, *self.said[who], {"role": "user", "content": text}]
        reply = self._answer(messages, (), who, hear)
        self.said[who] = [*messages[len(self.opening) :], {"role": "assistant", "content": reply.text}]
        return reply

    def ask_sample(self, golden: Golden, who: str, hear: Callable[[str], None] | None = None) -> Reply:
        """One side's answer to a held-out prompt; the conversation is left as it is. Raises as `ask`."""
        return self._answer(list(golden.messages), golden.tools, who, hear)

    def _answer(
        self, messages: list[Message], tools: Sequence[dict[str, Any]], who: str, hear: Callable[[str], None] | None
    ) -> Reply:
        model = self.models[who]
        ids = model.prompt_ids(messages, tools) or ()
        used = len(ids)
        if max(ids, default=0) >= model.vocabulary:
            raise ServerError(
                f"{who}: the message has tokens that were added in training; --alone asks the tuned model only"
            )
        if model.room is not None and used + self.max_new_tokens > model.room:
            raise ServerError(
                f"{used} tokens and an answer of up to {self.max_new_tokens} are more than the model's {model.room}"
            )
        return model.ask(messages, tools, self.max_new_tokens, hear)


def open_session(place: Path, alone: bool, max_new_tokens: int | None, trust_remote_code: bool) -> Session:
    """The models of a run or a bundle, loaded; the opening and the limit of answers as its evaluation had them.

    Raises:
        RecipeError: no such model there, or it, or its base, can't be loaded.
    """
    from finetune import device
    from finetune.device.start import dtype_of
    from finetune.verify.folder import Folder, base_of

    folder = chat_folder(place)
    device.quiet_libraries()
    samples, facts = read_golden(folder / SAMPLES), read_facts(folder / FACTS)
    dtype = dtype_of("auto", device.first_available())
    tuned = Folder(folder, trust_remote_code, dtype)
    models = {TUNED: tuned}
    if not alone:
        try:
            base = base_of(folder, trust_remote_code).folder()
        except RecipeError as error:
            raise RecipeError([f"{problem}; --alone asks the tuned model only" for problem in error.problems]) from None
        models = {BASE: Folder(base, trust_remote_code, dtype, like=tuned), TUNED: tuned}
    session = Session(models, _opening(samples), samples, max_new_tokens or facts.max_new_tokens)
    session.begin()
    return session


def chat_folder(place: Path) -> Path:
    """The folder with a model that a run's or a bundle's place means: its bundle, else the run itself.

    Raises:
        RecipeError: there is none, with what is needed.
    """
    if not place.is_dir():
        raise RecipeError(f"{place}: no such folder; a run's or a bundle's is needed")
    for folder in (place / "bundle", place):
        if (folder / "MANIFEST.json").is_file():
            if (folder / FACTS).is_file():
                return folder
            raise RecipeError(f"{folder}: made of plain text or a reward model, which answers no chat (no {FACTS})")
    if not (place / "adapter/adapter_config.json").is_file():
        raise RecipeError(f"{place}: neither a bundle (MANIFEST.json) nor a run that has trained (adapter/)")
    if not (place / FACTS).is_file():
        raise RecipeError(f"{place}: no {FACTS}: the run has not come to its answers; train to the end of its scores")
    if (place / INITIAL).is_file():
        raise RecipeError(f"{place}: {INITIAL}: the base was changed for this adapter; `finetune export` it, then chat")
    return place


def _opening(samples: Sequence[Golden]) -> tuple[Message, ...]:
    """What stands before the first user's message in all samples, where that is the same (a system message)."""
    before = []
    for sample in samples:
        roles = [message["role"] for message in sample.messages]
        before.append(sample.messages[: roles.index("user")] if "user" in roles else ())
    return before[0] if before and all(one == before[0] for one in before) else ()
