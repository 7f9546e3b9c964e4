"""New tokens of a vocabulary: put into the tokenizer, given their first rows, and told to peft as rows to train.

A row begins as the mean of the rows of the pieces that the word was cut into before, as in Gee et al. 2022 ("Fast
Vocabulary Transfer", arXiv 2402.09977). Hewitt 2021 ("Initializing New Word Embeddings for Pretrained Language Models")
takes the mean of all rows and shows why: rows at random outshine all others. By the same inequality (Jensen's) a word
that begins as the mean of its pieces is no likelier than they are on average, exp(mean z) <= mean exp(z).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.escape import control_tokens, mark_domain_tokens
from finetune.errors import RecipeError

if TYPE_CHECKING:
    from finetune.recipe_peft import PeftSection

KEY, INDICES = "model.add_tokens", "lora.trainable_token_indices"
# What every chat template writes for these is its own text; a token in it would cut it otherwise than in pretraining.
PROBE = [{"role": "user", "content": "0"}, {"role": "assistant", "content": "0"}]


@dataclass(frozen=True)
class AddedTokens:
    """The tokens of `model.add_tokens`.

    Attributes:
        ids: of all of them, in the order of the list; their rows are trained.
        pieces: of those that the vocabulary lacked, by id: what the word was cut into before.
    """

    ids: dict[str, int] = field(default_factory=dict)
    pieces: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def line(self) -> str:
        """One line for the console."""
        ids = sorted(self.ids.values())
        new = [len(pieces) for pieces in self.pieces.values()]
        mean = f", {sum(new) / len(new):.1f} pieces each before" if new else ""
        known = f", {len(ids) - len(new)} known before" if len(ids) > len(new) else ""
        return f"{len(ids)} token rows trained, ids {ids[0]} to {ids[-1]}: {len(new)} new{mean}{known}"

    def record(self) -> dict[str, Any]:
        """For the manifest, and for a run that resumes."""
        return {word: {"id": id, "pieces": len(self.pieces.get(id, (id,)))} for word, id in self.ids.items()}


def add_to_tokenizer(tokenizer: Any, words: Sequence[str]) -> AddedTokens:
    """Each word becomes a token of its own where the tokenizer does not write it as a single one already.

    They match as they stand, within longer words too and before any normalisation: as llama.cpp matches the tokens that
    a GGUF file calls user-defined, and so that texts are cut at them before all else (see data/segments.py).

    Raises:
        RecipeError: a line for each word that is a control token, could swallow the beginning of one, changes how the
            chat template's own text is cut, or can't be decoded again.
    """
    if not words:
        return AddedTokens()
    from tokenizers import AddedToken

    problems = [problem for word in words for problem in _steers(word, control_tokens(tokenizer))]
    if problems:
        raise RecipeError(problems)
    before = _template_ids(tokenizer)
    cut = {word: tuple(tokenizer.encode(word, add_special_tokens=False)) for word in words}
    new = [word for word in words if len(cut[word]) != 1 or tokenizer.decode(cut[word]) != word]
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=False) for word in new])
    mark_domain_tokens(tokenizer, new)
    ids = {word: tokenizer.convert_tokens_to_ids(word) if word in new else cut[word][0] for word in words}
    problems = [problem for word in new for problem in _unwritable(tokenizer, word, ids[word])]
    if before is not None and _template_ids(tokenizer) != before:
        named = [word for word in new if ids[word] in (_template_ids(tokenizer) or ())]
        problems.append(
            f"{KEY}: {', '.join(map(repr, named)) or 'a token'}: is in what the chat template itself writes, whose ids would "
            "be others than those that the base knows; leave it out"
        )
    if problems:
        raise RecipeError(problems)
    return AddedTokens(ids, {ids[word]: cut[word] for word in new})


def grow(model: Any, added: AddedTokens) -> None:
    """First rows of the new tokens, in the embedding and in an output layer of its own; more rows only where needed.

    Raises:
        RecipeError: the tokenizer has further ids beyond the embedding, or the vocabulary is quantised.
    """
    import torch

    if not added.pieces:
        return
    rows = model.get_input_embeddings().weight.shape[0]
    top = max(added.pieces) + 1
    if top > rows:
        lost = sorted(set(range(rows, top)) - set(added.pieces))
        if lost:
            raise RecipeError(f"{KEY}: the base has {rows} rows, its tokenizer ids up to {lost[-1]}: not its tokenizer")
        model.resize_token_embeddings(top, mean_resizing=False)
    weights = {id(layer.weight): layer.weight for _, layer in _layers(model)}
    with torch.no_grad():
        for weight in weights.values():  # one where they are tied
            if not weight.is_floating_point():
                raise RecipeError(f"{KEY}: the base's vocabulary is quantised ({weight.dtype}); its rows can't be set")
            for token, pieces in added.pieces.items():
                weight[token] = weight[list(pieces)].float().mean(0).to(weight.dtype)


def with_token_rows(section: PeftSection, model: Any, added: AddedTokens) -> PeftSection:
    """`lora:` with the rows of the added tokens, under peft's own key; of untied layers in both, so that the model can
    also say them.

    Raises:
        RecipeError: a layer is trained twice, or is one that peft can't train rows of.
    """
    given = section.model_dump()
    indices, targets = given.get("trainable_token_indices"), given.get("target_modules")
    if not added.ids and indices is None:
        return section
    layers = _layers(model)
    if getattr(layers[-1][1], "bias", None) is not None:  # peft 0.21's layer for token rows leaves it out
        raise RecipeError(f"{KEY if added.ids else INDICES}: the base's output layer has biases, which peft would drop")
    if indices is not None:
        return section
    if isinstance(targets, str) and any(re.fullmatch(targets, name) for name, _ in layers):
        raise RecipeError(
            f"{KEY}: lora.target_modules {targets!r} covers the vocabulary's layers too; keep one of the two"
        )
    tied = len({id(layer.weight) for _, layer in layers}) == 1
    if len(layers) > 1 and bool(model.config.get_text_config().tie_word_embeddings) != tied:
        raise RecipeError(f"{KEY}: the base's config.json says tie_word_embeddings otherwise than its weights are")
    ids = sorted(set(added.ids.values()))
    indices = {name: ids for name, _ in (layers[:1] if tied else layers)}
    return section.model_copy(update={"trainable_token_indices": indices})


def fit_to_adapter(model: Any, adapter: Path) -> None:
    """Gives a base the rows that an adapter's trained tokens need; what they hold is the adapter's.

    Raises:
        RecipeError: adapter_config.json can't be read.
    """
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{adapter / 'adapter_config.json'}: {error}") from None
    rows = rows_needed(config.get("trainable_token_indices"))
    if rows > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)


def rows_needed(indices: Any) -> int:
    """Rows that a vocabulary must have at least for these `trainable_token_indices`."""
    listed = indices.values() if isinstance(indices, dict) else [indices or ()]
    return 1 + max((token for ids in listed for token in ids), default=-1)


def check_same_tokens(added: AddedTokens, adapter: Path, key: str) -> None:
    """The adapter's rows are those of the same tokens, where its folder says which.

    Raises:
        RecipeError: a token has another id there.
    """
    file = adapter / "tokenizer.json"
    if not added.ids or not file.is_file():
        return
    content = json.loads(file.read_text(encoding="utf-8"))
    theirs = {token["id"]: token["content"] for token in content.get("added_tokens", ())}
    problems = [
        f"{key}: id {token} is {theirs.get(token)!r} in {adapter}, here it is {word!r}; the same {KEY} in the same order"
        for word, token in added.ids.items()
        if token in added.pieces and theirs.get(token) != word
    ]
    if problems:
        raise RecipeError(problems)


def _layers(model: Any) -> list[tuple[str, Any]]:
    """Embedding and, where there is one, output layer, with their names."""
    names = {id(module): name for name, module in model.named_modules()}
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    return [(names[id(layer)], layer) for layer in layers if layer is not None]


def _steers(word: str, control: Sequence[str]) -> list[str]:
    """What a word has to do with the tokens that steer the model."""
    if word in control:
        return [f"{KEY}: {word!r} is a control token of the tokenizer; its row is trained by nothing but its own use"]
    inside = next((token for token in control if token in word), None)
    if inside:
        return [f"{KEY}: {word!r} holds the control token {inside!r}"]
    # the tokenizer takes the match that begins first: `x<` before `<|im_end|>` would leave no `<|im_end|>`
    swallowed = next((token for token in control if any(word.endswith(token[:n]) for n in range(1, len(token)))), None)
    if swallowed:
        return [f"{KEY}: {word!r} ends as the control token {swallowed!r} begins, and would swallow its beginning"]
    return []


def _unwritable(tokenizer: Any, word: str, token: int) -> list[str]:
    """A word that the tokenizer does not find in a text, or writes otherwise when it decodes."""
    text = f"0{word}0"
    ids = tokenizer.encode(text, add_special_tokens=False)
    if token not in ids:
        return [f"{KEY}: {word!r} is not found in text: the tokenizer has it in another form"]
    if word in tokenizer.decode(ids):
        return []
    # byte-level decoders take letters such as ü for bytes, unless one character of the token can't be a byte
    written = tokenizer.decode([token])
    return [f"{KEY}: {word!r} would be written as {written!r} by the tokenizer's decoder; one space before it may help"]


def _template_ids(tokenizer: Any) -> list[int] | None:
    """Ids of what the chat template writes of its own; None where there is none, or it refuses so short a chat."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        return None
    try:
        text = tokenizer.apply_chat_template(PROBE, tokenize=False, add_generation_prompt=True)
    except (TemplateError, ValueError, TypeError):
        return None
    return list(tokenizer.encode(text, add_special_tokens=False))
