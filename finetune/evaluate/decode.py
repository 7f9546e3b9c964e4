"""Answers token by token for many prompts at once: what all prompts begin with is read once, and no finished row is computed.

Rows stand in a batch with their ends at the same column: [shared beginning][empty][the row's own tokens]. A new token
is one more column for all. A row that is finished leaves its place to the last one; when enough have left, waiting prompts
are read and join at the current column, and columns that no row uses any more are dropped.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from finetune.evaluate.beginning import Attend, beginning_read_once
from finetune.model.attention import cache_argument

LEAST_SHARED = 8  # tokens; fewer are not worth a pass of their own
TOKENS_AT_ONCE = 8192  # of prompts in one forward pass
REFILL = 4  # waiting prompts join when one in so many places is free

# (B, V) scores in float32 and the B rows' numbers -> (B,) tokens.
Choose = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]


def likeliest(scores: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Greedy; of equal ones the first, as `argmax` has it, in less than half its time on a CPU."""
    return scores.max(-1).indices


def decodes(model: Any) -> bool:
    """Whether `decode` computes what the model does: full attention in every layer, places told by position ids.

    Not where tokens are told apart by their distance in columns (sliding windows, ALiBi) or a layer keeps a state of its
    own; these are for transformers' `generate`.

    Args:
        model: of transformers.
    """
    takes = inspect.signature(model.forward).parameters
    if not {"position_ids", "logits_to_keep", cache_argument(model)} <= takes.keys() or getattr(
        model, "_is_stateful", False
    ):
        return False
    if model.config.is_encoder_decoder:
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stops: Sequence[int],
    rows_at_once: int,
    choose: Choose = likeliest,
    attend: Attend | None = None,
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The number of each prompt with the tokens that follow it, as its answer ends.

    These go up to and with the first of `stops`, and are at most `max_new_tokens`.

    Args:
        model: of transformers, for which `decodes` holds, on one device, in eval mode.
        prompts: none of them empty; in the order in which they are worked on, which is fastest with the longest first.
        choose: the next tokens; `likeliest` or a draw.
        attend: the device's, by which the beginning is attended to for all rows together (beginning.py); None: row by row.
    """
    if prompts:
        decoding = _Decoding(model, prompts, max_new_tokens, set(stops), choose)
        with beginning_read_once(model, decoding.shared, attend):
            yield from decoding.run(rows_at_once)


class _Room(DynamicLayer):
    """Keys and values (B, H, T, D) of a layer, with room for columns to come: a token is written, the rest not copied."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.whole: list[torch.Tensor] = []  # keys and values, (B, H, T + room, D)

    def let_go(self) -> None:
        """Keys and values have been copied elsewhere."""
        self.keys = self.values = self.keys.new_empty(0)
        self.whole = []

    def hold(self, keys: torch.Tensor, values: torch.Tensor, rows: int, columns: int) -> None:
        """Room for `rows` x `columns` whose first columns (of all rows, where one is given) are these."""
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.whole = []
        for given in (keys, values):
            place = given.new_empty(rows, given.shape[1], columns + self.room, given.shape[3])
            place[:, :, : given.shape[2]] = given
            self.whole.append(place)
        self.show(rows, keys.shape[2])

    def show(self, rows: int, columns: int) -> None:
        """The first so many of both are in use."""
        self.keys, self.values = (place[:rows, :, :columns] for place in self.whole)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
        count = key_states.shape[-2]
        if not self.is_initialized:
            self.hold(key_states, value_states, key_states.shape[0], count)
            return self.keys, self.values
        rows, columns = self.keys.shape[0], self.keys.shape[2]
        if columns + count > self.whole[0].shape[2]:
            self.hold(self.keys, self.values, rows, columns + count)
        for place, new in zip(self.whole, (key_states, value_states), strict=True):
            place[:rows, :, columns : columns + count] = new
        self.show(rows, columns + count)
        return self.keys, self.values


class _Decoding:
    """The state of one call of `decode`.

    Attributes:
        shared: how many tokens all prompts begin with (the last token of a prompt is never among them).
        beginning: their keys and values, one row; None where nothing is shared.
        cache: of the rows at work.
        rows: the numbers of the prompts at work, in the batch's order.
        own: of each, how many columns at the batch's end are its own.
        last: the token of each that is to be read next.
        answers: what was said, by number.
    """

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: set[int], choose: Choose
    ) -> None:
        self.model, self.prompts, self.limit, self.stops, self.choose = model, prompts, max_new_tokens, stops, choose
        self.device, self.cache_argument = model.device, cache_argument(model)
        self.shared = _shared(prompts)
        self.beginning: DynamicCache | None = None
        if self.shared:
            self.beginning = DynamicCache(config=model.config)
            ids = torch.tensor([list(prompts[0][: self.shared])], device=self.device)  # (1, P)
            self._forward(
                ids, torch.ones_like(ids), torch.arange(self.shared, device=self.device)[None], self.beginning
            )
        self.cache = self._empty(self.limit)
        self.rows: list[int] = []
        self.own: list[int] = []
        self.last: list[int] = []
        self.answers: list[list[int]] = [[] for _ in prompts]

    def run(self, rows_at_once: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        waiting = list(range(len(self.prompts)))[::-1]
        while waiting or self.rows:
            most = min(rows_at_once - len(self.rows), len(waiting))
            if most and (not self.rows or REFILL * most >= min(rows_at_once, len(waiting))):
                ended = self._join([waiting.pop() for _ in range(most)])
            else:
                ended = self._step()
            yield from ((row, tuple(self.answers[row])) for row in ended)

    def _empty(self, room: int) -> DynamicCache:
        cache = DynamicCache(config=self.model.config)
        cache.layers = [_Room(room) for _ in cache.layers]
        return cache

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """(B, V) scores of what follows, in float32."""
        output = self.model(
            input_ids=ids, attention_mask=mask, position_ids=places, use_cache=True, logits_to_keep=1,
            **{self.cache_argument: cache},
        )  # fmt: skip
        return output.logits[:, -1].float()

    def _join(self, coming: list[int]) -> list[int]:
        """Reads these prompts and puts them into the batch; the rows that ended at once."""
        width = max(len(self.prompts[row]) for row in coming) - self.shared
        at_once = max(1, TOKENS_AT_ONCE // width)
        parts = [coming[start : start + at_once] for start in range(0, len(coming), at_once)]
        read = [self._read(part) for part in parts]
        sources = [(len(self.rows), self.cache)] if self.rows else []
        sources += [(len(part), cache) for part, (cache, _) in zip(parts, read, strict=True)]
        before = len(self.rows)
        self.rows = self.rows + coming
        self.own = self.own + [len(self.prompts[row]) - self.shared for row in coming]
        self.last = self.last + [0] * len(coming)
        self._put_together(sources)
        return self._say(before, torch.cat([scores for _, scores in read]))

    def _read(self, rows: list[int]) -> tuple[DynamicCache, torch.Tensor]:
        """Keys and values of these prompts, their ends at the last column, and the scores of what follows."""
        own = [list(self.prompts[row][self.shared :]) for row in rows]
        width = max(map(len, own))
        ids = torch.tensor([[0] * (width - len(tokens)) + tokens for tokens in own], device=self.device)  # (B, T)
        cache = self._empty(width)
        if self.beginning is not None:
            for layer, given in zip(cache.layers, self.beginning.layers, strict=True):
                layer.hold(given.keys, given.values, len(rows), self.shared)
        mask = self._mask([len(tokens) for tokens in own], self.shared + width)
        places = (mask.cumsum(-1) - 1).clamp(min=0)[:, self.shared :]
        return cache, self._forward(ids, mask, places, cache)

    def _mask(self, own: list[int], columns: int) -> torch.Tensor:
        """(B, columns): 1 at the shared beginning and at each row's own tokens, which end at the last column."""
        column = torch.arange(columns, device=self.device)[None]
        begins = columns - torch.tensor(own, device=self.device)[:, None]
        return ((column < self.shared) | (column >= begins)).long()

    def _put_together(self, sources: list[tuple[int, DynamicCache]]) -> None:
        """The batch's cache anew, as wide as its longest row, out of caches with so many rows each."""
        columns = self.shared + max(self.own)
        cache = self._empty(self.limit)
        for index, layer in enumerate(cache.layers):
            given = [(rows, its.layers[index]) for rows, its in sources]
            layer.hold(given[0][1].keys[:1, :, :0], given[0][1].values[:1, :, :0], len(self.rows), columns)
            start = 0
            for rows, its in given:
                own = min(its.keys.shape[2], columns) - self.shared
                for place, values in zip(layer.whole, (its.keys, its.values), strict=True):
                    into = place[start : start + rows]
                    into[:, :, : self.shared] = values[:, :, : self.shared]
                    into[:, :, self.shared : columns - own] = 0
                    into[:, :, columns - own : columns] = values[:, :, values.shape[2] - own :]
                start += rows
                its.let_go()  # so that no more than one layer lies twice in memory
            layer.show(len(self.rows), columns)
        self.cache = cache

    def _step(self) -> list[int]:
        """One more token for every row at work; the rows that ended with it."""
        self.own = [count + 1 for count in self.own]
        mask = self._mask(self.own, self.cache.get_seq_length() + 1)
        ids = torch.tensor(self.last, device=self.device)[:, None]
        places = self.shared - 1 + torch.tensor(self.own, device=self.device)[:, None]
        return self._say(0, self._forward(ids, mask, places, self.cache))

    def _say(self, first: int, scores: torch.Tensor) -> list[int]:
        """Chooses the next token of the batch's rows from place `first` on; those that end leave, and are returned."""
        tokens = self.choose(scores, self.rows[first:]).tolist()
        self.last[first:] = tokens
        ended = []
        for place, token in enumerate(tokens, first):
            answer = self.answers[self.rows[place]]
            answer.append(token)
            if token in self.stops or len(answer) >= self.limit:
                ended.append(place)
        rows = [self.rows[place] for place in ended]
        self._leave(ended)
        return rows

    def _leave(self, ended: list[int]) -> None:
        """Rows at these places go; the last ones of the batch take their places."""
        if not ended:
            return
        left, columns = len(self.rows) - len(ended), self.cache.get_seq_length()
        staying = [place for place in range(left, len(self.rows)) if place not in ended]
        for hole, place in zip((place for place in ended if place < left), staying, strict=True):
            for layer in self.cache.layers:
                for block in layer.whole:
                    block[hole, :, :columns] = block[place, :, :columns]
            for held in (self.rows, self.own, self.last):
                held[hole] = held[place]
        for held in (self.rows, self.own, self.last):
            del held[left:]
        for layer in self.cache.layers:
            layer.show(left, columns)


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, the last of each left out; 0 where it is not worth it."""
    if len(prompts) < 2:
        return 0
    low, high = min(map(list, prompts)), max(map(list, prompts))  # of lists in order the ends differ first
    most = min(len(prompt) for prompt in prompts) - 1
    count = next((i for i in range(most) if low[i] != high[i]), most)
    return count if count >= LEAST_SHARED else 0
