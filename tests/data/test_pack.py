"""Packing: where each document goes, and that no token or label is lost, cut, doubled or trained across a border."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from finetune.data.chat import IGNORED, Example
from finetune.data.pack import Pack, join, pack, packing_line
from finetune.errors import DataError
from finetune.recipe_stages import SftSection
from finetune.stages.sft import Sft

PAD = 99
X = IGNORED


def example(*ids: int, trained_from: int = 0, where: str = "f:1") -> Example:
    labels = tuple(token if t >= trained_from else X for t, token in enumerate(ids))
    return Example(ids, labels, where)


def rows(*lengths: int) -> list[Example]:
    """Examples of these lengths; every token of all of them is another number."""
    numbers = iter(range(10**6))
    return [example(*(next(numbers) for _ in range(n)), where=f"f:{i + 1}") for i, n in enumerate(lengths)]


def stage(padding_free: bool = False, pad_to_multiple_of: int = 1) -> Sft:
    encoder = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=PAD))
    return Sft(encoder, SimpleNamespace(padding_free=padding_free), SftSection(), pad_to_multiple_of)


def textbook(lengths: list[int], budget: int) -> list[list[int]]:
    """First-fit-decreasing as its definition says it, one item after the other."""
    bins: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for row in bins:
            if sum(lengths[i] for i in row) + lengths[index] <= budget:
                row.append(index)
                break
        else:
            bins.append([index])
    return sorted(sorted(row) for row in bins)


def test_by_hand():
    """Budget 8. 7 opens a row, 5 a second, 4 a third; 3 fits after 5 (= 8), 1 after 7 (= 8).

    Rows stand in the order of their first document, documents in the order of the input.
    """
    packs = pack(rows(5, 7, 1, 3, 4), 8)
    assert [row.sources for row in packs] == [("f:1", "f:4"), ("f:2", "f:3"), ("f:5",)]
    assert [row.lengths for row in packs] == [(5, 3), (7, 1), (4,)]
    assert packs[0].ids == (0, 1, 2, 3, 4, 13, 14, 15)
    assert packs[0].where == "f:1, f:4"
    assert packing_line(packs, 8) == (
        "packed: 5 documents in 3 rows of at most 8 tokens, 83.3% full; train.global_batch_size counts these rows"
    )


@pytest.mark.parametrize("seed", range(20))
def test_is_first_fit_decreasing(seed):
    """The placing of equal lengths at once gives the bins of the definition."""
    draw = random.Random(seed)
    budget = draw.randint(5, 60)
    lengths = [draw.randint(1, budget) for _ in range(draw.randint(1, 120))]
    got = [[int(source[2:]) - 1 for source in row.sources] for row in pack(rows(*lengths), budget)]
    assert got == textbook(lengths, budget)


def test_thousand_rows():
    """T31: each token once and in order, trained tokens unchanged, no document cut, the same packs every time."""
    draw = random.Random(7)
    examples = []
    for index, base in enumerate(rows(*(draw.randint(2, 200) for _ in range(1000)))):
        first = draw.randint(1, len(base.ids) - 1)
        examples.append(replace(base, labels=(X,) * first + base.ids[first:], where=f"rows.jsonl:{index + 1}"))
    packs = pack(examples, 512)
    documents = sorted((document for row in packs for document in row.documents), key=lambda d: int(d.where[11:]))
    assert documents == examples
    assert max(len(row.ids) for row in packs) <= 512
    assert sum(row.trained for row in packs) == sum(one.trained for one in examples)
    order = [[int(source[11:]) for source in row.sources] for row in packs]
    assert all(row == sorted(row) for row in order)
    assert [row[0] for row in order] == sorted(row[0] for row in order)
    tokens = sum(len(one.ids) for one in examples)
    assert len(packs) <= 1.02 * tokens / 512 + 1  # as good as no waste with so many short rows
    assert pack(examples, 512) == packs

    batches = [stage().collate([row]) for row in packs]
    assert sum(int(batch["tokens"]) for batch in batches) == tokens
    plain = [stage().collate([one]) for one in examples]
    in_packs = torch.cat([batch["targets"] for batch in batches]).sort().values
    assert torch.equal(in_packs, torch.cat([batch["targets"] for batch in plain]).sort().values)


def test_no_target_across_a_border():
    """T31: with every token trained, the first token of each document is never a target; no 2-D mask, no padding."""
    batch = stage().collate([join([example(10, 11, 12), example(20), example(30, 31)])])
    assert batch.keys() == {"input_ids", "position_ids", "bounds", "kept", "targets", "rows", "tokens"}
    assert batch["input_ids"].tolist() == [[10, 11, 12, 20, 30, 31]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]
    assert batch["kept"].tolist() == [0, 1, 4]
    assert batch["targets"].tolist() == [11, 12, 31]
    assert int(batch["tokens"]) == 6


def test_rows_of_unlike_length():
    """Two packs are two rows; what fills up the shorter one is a document of its own that trains nothing."""
    one = join([example(1, 2, 3, trained_from=1), example(4, 5, 6, trained_from=2)])
    two = join([example(7, 8), example(9, 10)])
    batch = stage(pad_to_multiple_of=4).collate([one, two])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, PAD, PAD], [7, 8, 9, 10, PAD, PAD, PAD, PAD]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 0, 1], [0, 1, 0, 1, 0, 1, 2, 3]]
    assert batch["kept"].tolist() == [0, 1, 4, 8, 10]
    assert batch["targets"].tolist() == [2, 3, 6, 8, 10]
    assert int(batch["tokens"]) == 10


def test_examples_are_padded_as_ever():
    """Without packs: a mask and no positions, so that every architecture trains."""
    batch = stage().collate([example(1, 2, 3, trained_from=1), example(4, 5)])
    assert batch.keys() == {"input_ids", "attention_mask", "kept", "targets", "rows", "tokens"}
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 5, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["kept"].tolist() == [0, 1, 3]
    assert batch["targets"].tolist() == [2, 3, 5]


def test_padding_free():
    """A micro-batch of plain examples as one row of documents: not one token of padding."""
    batch = stage(padding_free=True).collate([example(1, 2, 3, trained_from=1), example(4, 5)])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["kept"].tolist() == [0, 1, 3]
    assert batch["targets"].tolist() == [2, 3, 5]


def test_a_pack_is_an_example_to_the_loop():
    """T19: the loop's blank row (all labels ignored) keeps the documents' borders; joined packs keep them too."""
    row = join([example(1, 2, where="a:1"), example(3, 4, 5, where="b:2")])
    blank = replace(row, labels=(X,) * 5)
    batch = stage().collate([blank])
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    assert batch["targets"].tolist() == []
    both = join([row, example(6, where="c:3")])
    assert isinstance(both, Pack)
    assert (both.lengths, both.sources) == ((2, 3, 1), ("a:1", "b:2", "c:3"))


def test_where_names_the_rows():
    """A bad batch can be traced: the first eight rows by name, all of them in `sources`."""
    row = join(rows(*[1] * 11))
    assert row.where == "f:1, f:2, f:3, f:4, f:5, f:6, f:7, f:8 and 3 more"
    assert row.sources[-1] == "f:11"


def test_window():
    """Each three rows are packed among themselves, although 1 of the second three would fill up the first row."""
    assert [row.sources for row in pack(rows(3, 4, 2, 1, 6, 1), 8, window=3)] == [
        ("f:1", "f:2"),
        ("f:3",),
        ("f:4", "f:5", "f:6"),
    ]
    assert [row.sources for row in pack(rows(3, 4, 2, 1, 6, 1), 8)] == [("f:1", "f:2", "f:4"), ("f:3", "f:5"), ("f:6",)]


def test_what_does_not_fit():
    """All rows that can't be packed at once; nothing is cut."""
    with pytest.raises(DataError) as error:
        pack(rows(9, 8, 0, 12), 8)
    assert error.value.problems == [
        "f:1: 9 tokens can't be packed; a packed row holds 1 to 8 of them",
        "f:3: 0 tokens can't be packed; a packed row holds 1 to 8 of them",
        "f:4: 12 tokens can't be packed; a packed row holds 1 to 8 of them",
    ]
    assert pack([], 8) == []
