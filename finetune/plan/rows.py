"""How long the recipe's rows are: out of the cache of encoded rows, or a sample of them tokenised; and what a step reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.few import evenly
from finetune.data.formats import ROWS_OF_STAGE
from finetune.data.prepare import Prepared
from finetune.errors import RecipeError
from finetune.recipe import Recipe
from finetune.schedule import Plan, batch_indices
from finetune.step import deal

SAMPLE = 200  # rows that are tokenised where there is no cache
PACKED = 2000  # examples whose packing is worked out; of more, as full
LOOKED = 500  # steps that are looked at, evenly over the run


@dataclass(frozen=True)
class Rows:
    """What training batches.

    Attributes:
        lengths, trained: (items, parts) int64, tokens and trained tokens of each part of an item: one, or two answers.
        squares: (items,) int64, of the lengths of the documents of an item, summed.
        items: how many there are in an epoch; `lengths` may be those of fewer.
        exact: whether every row was counted. how: in words, how it was.
    """

    lengths: np.ndarray
    trained: np.ndarray
    squares: np.ndarray
    items: int
    exact: bool
    how: str

    def under(self, most: int, policy: str, packed: bool) -> Rows:
        """About what a smaller data.max_length makes of them.

        Args:
            policy: data.too_long; rows are dropped, or cut. packed: rows are filled up to data.max_length.

        Raises:
            RecipeError: nothing is left, or a longer row is an error.
        """
        if self.longest <= most:
            return self
        how = f"{self.how}; under {most} tokens"
        lengths, times = np.minimum(self.lengths, most), 1.0
        if packed:  # as many tokens in more rows
            times = float(self.lengths.sum() / lengths.sum())
        elif policy == "error":
            raise RecipeError(f"data.max_length: a row has {self.longest} tokens, and data.too_long is error")
        elif policy == "drop":
            fit = self.lengths.max(1) <= most
            if not fit.any():
                raise RecipeError(f"data.max_length: no row has {most} tokens or fewer")
            items = max(1, round(self.items * float(fit.mean())))
            return Rows(self.lengths[fit], self.trained[fit], self.squares[fit], items, self.exact, how)
        trained = np.minimum(self.trained, np.ceil(self.trained * (lengths / self.lengths))).astype(np.int64)
        squares = (self.squares * (lengths.sum(1) / self.lengths.sum(1)) ** (1 if packed else 2)).astype(np.int64)
        return Rows(lengths, trained, squares, max(1, round(self.items * times)), False, how)

    @property
    def longest(self) -> int:
        return int(self.lengths.max())


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass.

    Attributes:
        rows: how many. width: tokens of each, filled up. real: tokens that are no filling. trained: positions with a loss.
        squares: of the documents' lengths, summed.
    """

    rows: int
    width: int
    real: int
    trained: int
    squares: int

    @property
    def tokens(self) -> int:
        """With the filling."""
        return self.rows * self.width


def count_rows(recipe: Recipe, data: Prepared, cache: Path) -> Rows:
    """The lengths of a stage's rows.

    Args:
        data: checked, split and screened. cache: where encoded rows are kept.

    Raises:
        RecipeError: no tokenizer. DataError: sampled rows that can't be encoded.
    """
    from finetune.data.store import BrokenStoreError, ExampleStore
    from finetune.inputs import encoding_key, make_stage
    from finetune.model.load import load_tokenizer

    stage, encoder = make_stage(recipe, load_tokenizer(recipe.model))
    if recipe.data.cache and cache.is_dir():
        key = encoding_key(recipe, data, encoder.tokenizer)
        try:
            return of_store(recipe, ExampleStore(cache / key))
        except BrokenStoreError:
            pass
    places = evenly(len(data.train), SAMPLE)
    examples = stage.encode(data.train.pick(places))
    exact = len(places) == len(data.train)
    how = f"all {len(places)} rows tokenised" if exact else f"{len(places)} of {len(data.train)} rows tokenised"
    lengths = np.array([[part.length for part in item.examples] for item in examples])
    trained = np.array([[part.trained for part in item.examples] for item in examples])
    return extrapolated(recipe, lengths, trained, len(data.train) / len(places), exact, how)


def of_store(recipe: Recipe, store: Any) -> Rows:
    """Every row, encoded before."""
    parts = 2 if ROWS_OF_STAGE[recipe.stage] == "preference" else 1
    lengths = np.diff(store.offsets).reshape(-1, parts)
    trained = np.asarray(store.trained_counts).reshape(-1, parts)
    how = f"the cache of encoded rows: all {len(store)}"
    return extrapolated(recipe, lengths, trained, 1.0, True, how)


def extrapolated(recipe: Recipe, lengths: np.ndarray, trained: np.ndarray, times: float, exact: bool, how: str) -> Rows:
    """Rows of these lengths `times` as many; packed where the recipe says so."""
    squares = (lengths.astype(np.int64) ** 2).sum(1)
    if recipe.data.packing:
        some = np.random.default_rng(0).permutation(len(lengths))[:PACKED]
        times, exact, how = times * len(lengths) / len(some), exact and len(some) == len(lengths), f"{how}, packed"
        lengths, trained, squares = _packed(lengths[some, 0], trained[some, 0], recipe.data.max_length)
    return Rows(lengths, trained, squares, max(1, round(len(lengths) * times)), exact, how)


def _packed(lengths: np.ndarray, trained: np.ndarray, budget: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of rows of at most `budget` tokens, filled as training does."""
    from finetune.data.pack import first_fit_decreasing

    bins = first_fit_decreasing(lengths.tolist(), budget)
    return (
        np.array([[lengths[own].sum()] for own in bins]),
        np.array([[trained[own].sum()] for own in bins]),
        np.array([(lengths[own].astype(np.int64) ** 2).sum() for own in bins]),
    )


def steps(
    rows: Rows, recipe: Recipe, layout: Plan, joined: bool = False, shared: bool = False
) -> Iterator[list[MicroBatch]]:
    """The first process's micro-batches of at most LOOKED steps, evenly over the run; batched as training batches.

    Where only some lengths are known, each stands for the items that they were sampled from.

    Args:
        joined: rows are computed as one without filling, whatever the recipe says. shared: of a pair, what both parts
            begin with is computed once.
    """
    multiple = 32 if recipe.train.torch_compile else 1  # as inputs.make_stage
    joined = joined or recipe.data.padding_free
    known, longest = len(rows.lengths), rows.lengths.max(1)
    for step in evenly(layout.steps, LOOKED):
        chosen = np.array(batch_indices(recipe.seed, int(step), rows.items, layout.drawn)) % known
        groups = deal(longest[chosen].tolist(), layout.processes, layout.micro_batch, 0, joined or shared)
        yield [micro_batch(rows, chosen[own], multiple, joined, shared) for own in groups if own]


def micro_batch(rows: Rows, places: np.ndarray, multiple: int, joined: bool, shared: bool = False) -> MicroBatch:
    """The items at these places in one forward pass; `joined`: as one row; `shared`: without what both parts begin with,
    which is the prompt, once."""
    lengths = rows.lengths[places]  # (items, parts)
    prompts = (lengths - rows.trained[places]).min(1).sum() if shared else 0
    width = int(lengths.sum() - prompts if joined or shared else lengths.max())
    return MicroBatch(
        rows=1 if joined or shared else lengths.size,
        width=-(-width // multiple) * multiple,
        real=int(lengths.sum() - prompts),
        trained=int(rows.trained[places].sum()),
        squares=int(rows.squares[places].sum()),
    )
