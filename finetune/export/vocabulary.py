"""The two ends of a model in a merge: embedding and output layer pulled apart, rows for new tokens, how many there are."""

from __future__ import annotations

from typing import Any

from finetune.errors import RecipeError
from finetune.export.changes import Adapter, Change
from finetune.export.origins import Part, Parts, Skeleton, whole
from finetune.export.tied import head_of_tied, is_tied
from finetune.export.weights import Grown, Stored, same_values


def on_vocabulary(adapter: Adapter, config: dict[str, Any], tensors: dict[str, Stored], parts: Parts) -> bool:
    """Whether the adapter may touch a tied tensor, or has another vocabulary than the base; names alone don't tell."""
    size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    for name, (part,) in parts.items():
        change = adapter.changes[part.parameter]
        shape, replaced = tensors[name].shape, change.replaced
        if change.tokens is not None and max(change.rows) >= shape[0]:
            return True
        if len(shape) == 2 and shape[0] == size and is_tied(config) is not False:
            return True
        if replaced is not None and replaced.shape != shape:
            return True
    return False


def untie(
    adapter: Adapter, skeleton: Skeleton, parts: Parts, tensors: dict[str, Stored], tied: bool | None
) -> tuple[bool | None, dict[str, Stored]]:
    """Gives an output layer that is tied a tensor of its own where the adapter changes the two differently.

    Returns:
        False when they are not tied any more (None: as in the base), and the base's tensors there are besides.
    """
    embedding, head = skeleton.embedding, skeleton.head
    if embedding is None or head is None or not {embedding, head} & set(adapter.changes):
        return None, {}
    places = {part.parameter: stored for stored, own in parts.items() for part in own}
    if tied is None:
        tied = head not in places or embedding not in places
    both = head in places and embedding in places
    if not tied:
        return None, {}
    if both and not same_values(tensors[places[head]], tensors[places[embedding]]):
        return False, {}  # transformers 5 does not tie these, whatever config.json says; older versions would
    stored = places.get(embedding) or places[head]
    change = head_of_tied(adapter, embedding, head)
    if change is None:  # one change; what is only stored under the output layer's name is the embedding's all the same
        for name in (embedding, head):
            if name in places:
                adapter.changes[name] = adapter.changes.get(embedding) or adapter.changes[head]
            else:
                adapter.changes.pop(name, None)
        return None, {}
    adapter.changes[head] = change
    adapter.changes.setdefault(embedding, Change())
    extra = {}
    for parameter in (embedding, head):
        if parameter not in places:
            other = embedding if parameter == head else head
            prefix = stored.removesuffix(other) if stored.endswith(other) else ""
            extra[prefix + parameter] = tensors[stored]
            parts[prefix + parameter] = whole(parameter, tensors[stored])
    return False, extra


def grown(adapter: Adapter, parts: Parts, tensors: dict[str, Stored]) -> dict[str, Stored]:
    """The tensors, with rows for trained tokens that the base has none for; `parts` follow.

    Raises:
        RecipeError: a row behind the base's own would be nobody's.
    """
    found, problems = dict(tensors), []
    for stored, own in list(parts.items()):
        change = adapter.changes.get(own[0].parameter, Change()) if len(own) == 1 else Change()
        rows = tensors[stored].shape[0] if tensors[stored].shape else 0
        if change.tokens is None or change.replaced is not None or max(change.rows) < rows:
            continue
        top = max(change.rows) + 1
        lost = sorted(set(range(rows, top)) - set(change.rows))
        if lost:
            problems.append(
                f"adapter: {own[0].parameter}: trained token {top - 1} is beyond the base's {rows} rows, and nothing is "
                f"known of row {lost[0]} before it; save the adapter with save_embedding_layers=True"
            )
            continue
        found[stored] = Grown.of(tensors[stored], top)
        parts[stored] = whole(own[0].parameter, found[stored])
    if problems:
        raise RecipeError(problems)
    return found


def vocabulary_rows(
    adapter: Adapter,
    places: dict[str, list[tuple[str, Part]]],
    stored: dict[str, Stored],
    tensors: dict[str, Stored],
    vocabulary: list[str],
) -> int | None:
    """Rows of embedding and output layer where the adapter changed them.

    Args:
        stored: as the base has them; `tensors`: with rows for new tokens.

    Raises:
        RecipeError: it changed those of one only.
    """
    rows = {}
    for name in vocabulary:
        replaced = adapter.changes.get(name, Change()).replaced
        if name in places:
            rows[name] = (replaced or tensors[places[name][0][0]]).shape[0]
    before = {stored[places[name][0][0]].shape[0] for name in rows}
    if len(set(rows.values())) > 1 and len(before) == 1:
        sizes = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise RecipeError(f"adapter: rows of the vocabulary: {sizes}; save the adapter with save_embedding_layers=True")
    return next((count for count in rows.values() if count not in before), None)
