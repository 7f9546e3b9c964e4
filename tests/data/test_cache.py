"""Encoding in processes and the cache: the same files whatever the workers, and a key that everything goes into."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from finetune.data.cache import cache_key, encode_cached
from finetune.data.chat import IGNORED, ChatEncoder, Example
from finetune.data.encode import EncodeSamples
from finetune.data.processes import chunked
from finetune.data.rows import Sample
from finetune.data.store import ExampleStore
from finetune.errors import DataError, RecipeError
from finetune.recipe_data import DataSection
from finetune.schedule import batch_indices
from tests.conftest import byte_tokenizer, tiny_llama

KEY = "a" * 64


def section(**changes) -> DataSection:
    values = {"format": "messages", "train": [{"path": "t"}], "split": {"eval_rows": 1}, "max_length": 60}
    return DataSection(**values | {"too_long": "drop"} | changes)


def samples(count: int) -> list[Sample]:
    """Conversations of growing length; of twenty, the last ones have more than 60 tokens."""
    return [
        Sample(
            {},
            ({"role": "user", "content": "a" * i}, {"role": "assistant", "content": f"{i} times"}),
            f"f:{i + 1}",
        )
        for i in range(count)
    ]


def encode_numbers(numbers: list[int]) -> tuple[list[Example], dict[str, int]]:
    """n to n tokens n; a negative number is a problem."""
    problems = [f"numbers:{n}: is below zero" for n in numbers if n < 0]
    if problems:
        raise DataError(problems)
    return [Example((n,) * n, (n,) * n, f"numbers:{n}") for n in numbers if n], {"rows": len(numbers)}


def make_numbers():
    return encode_numbers


def make_nothing():
    raise DataError("the tokenizer of x has no chat template; use an instruct model")


def die(chunk):
    os.kill(os.getpid(), signal.SIGKILL)


def make_die():
    return die


def arrays(store: ExampleStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.folder.iterdir())}


def first_losses(store: ExampleStore) -> list[float]:
    """Summed loss of the first three batches of four in training order under a fixed model."""
    model = tiny_llama(258)
    losses = []
    for step in range(3):
        total = torch.zeros(())
        for index in batch_indices(3, step, len(store), 4):
            ids, labels = torch.tensor([store[index].ids]), torch.tensor(store[index].labels)
            with torch.no_grad():
                logits = model(ids).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=IGNORED, reduction="sum")
        losses.append(total.item())
    return losses


@pytest.mark.slow
def test_workers_do_not_change_data(tmp_path):
    """T6: 0, 1 and 2 workers write the same bytes: ids, their order, labels, rows, counts; losses are bit-equal.

    A run that goes on with another number of workers finds the very store: `workers` is no part of the key.
    """
    make = EncodeSamples(byte_tokenizer, section(), "sft")
    stores = {}
    for workers in (0, 1, 2):
        store, hit = encode_cached(chunked(samples(40), 3), make, KEY, tmp_path / str(workers), workers)
        assert not hit
        stores[workers] = store
    assert arrays(stores[0]) == arrays(stores[1]) == arrays(stores[2])
    assert set(arrays(stores[0])) == {
        "file.npy", "ids.npy", "index.json", "line.npy", "marks.npy", "offsets.npy", "trained.npy", "trained_counts.npy",
    }  # fmt: skip
    assert first_losses(stores[0]) == first_losses(stores[2])
    again, hit = encode_cached(chunked(samples(40), 3), make, KEY, tmp_path / "2", 0)
    assert (hit, again.folder) == (True, tmp_path / "2" / KEY)
    keys = {cache_key([], byte_tokenizer(), section(workers=workers)) for workers in (1, 2, 3)}
    assert len(keys) == 1


def test_what_comes_out_is_what_the_encoder_gives(tmp_path):
    """The store holds the encoder's examples of the rows that fit, and the counts say what became of the others.

    One token a byte: <|im_start|>user\\n (6) a.. (i) <|im_end|>\\n (2) <|im_start|>assistant\\n (11) answer <|im_end|>\\n
    (2): 21 + i + the answer's 7 or 8. At most 60 tokens leaves i <= 31.
    """
    make = EncodeSamples(byte_tokenizer, section(), "sft")
    store, _ = encode_cached(chunked(samples(40), 7), make, KEY, tmp_path, 0)
    encoder = ChatEncoder(byte_tokenizer())
    expected = [example for sample in samples(32) for example in encoder.encode(sample)]
    assert list(store) == expected
    assert store.lengths.tolist() == [21 + i + (7 if i < 10 else 8) for i in range(32)]
    assert store.trained_counts.tolist() == [8] * 10 + [9] * 22
    assert store.counts == {"rows": 40, "too_long_dropped": 8}


def test_a_hit_reads_no_chunk(tmp_path):
    def chunks():
        raise AssertionError("the cache has it")
        yield

    first, hit = encode_cached([[1, 2], [3]], make_numbers, KEY, tmp_path, 0)
    again, hit_again = encode_cached(chunks(), make_numbers, KEY, tmp_path, 0)
    assert (hit, hit_again) == (False, True)
    assert list(again) == list(first) == [Example((n,) * n, (n,) * n, f"numbers:{n}") for n in (1, 2, 3)]
    assert again.counts == {"rows": 3}
    other, hit = encode_cached([[4]], make_numbers, "b" * 64, tmp_path, 0)
    assert (hit, len(other)) == (False, 1)


@pytest.mark.slow
def test_problems_of_all_chunks_at_once(tmp_path):
    """One error with the problems of every chunk in the order of the rows, the same for any workers; nothing kept."""
    for workers in (0, 2):
        with pytest.raises(DataError) as caught:
            encode_cached([[1, -2, -3], [4], [-5], [6, -7]], make_numbers, KEY, tmp_path, workers)
        assert caught.value.problems == [f"numbers:{n}: is below zero" for n in (-2, -3, -5, -7)]
        assert list(tmp_path.iterdir()) == []


def test_problems_of_the_reader_join_those_of_the_rows(tmp_path):
    def chunks():
        yield [1, -2]
        yield [3]
        raise DataError(["f:9: not JSON", "f:11: not JSON"])

    with pytest.raises(DataError) as caught:
        encode_cached(chunks(), make_numbers, KEY, tmp_path, 0)
    assert caught.value.problems == ["numbers:-2: is below zero", "f:9: not JSON", "f:11: not JSON"]


def test_a_mistake_in_the_settings_is_said_once(tmp_path):
    """Every chunk meets it; the user reads one line."""
    with pytest.raises(DataError) as caught:
        encode_cached([[1], [2], [3]], make_nothing, KEY, tmp_path, 0)
    assert caught.value.problems == ["the tokenizer of x has no chat template; use an instruct model"]


def test_nothing_left_to_train_on(tmp_path):
    make = EncodeSamples(byte_tokenizer, section(max_length=20), "sft")
    with pytest.raises(DataError) as caught:
        encode_cached(chunked(samples(4), 3), make, KEY, tmp_path, 0)
    assert caught.value.problems == ["data: of 4 rows none is left to train on (4 too_long_dropped)"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_worker_that_dies(tmp_path):
    """The kernel kills a process that needs too much memory: said as it is, not a hang and not a traceback."""
    with pytest.raises(RecipeError, match=r"data.workers: one of 2 worker processes died .*; try fewer"):
        encode_cached([[1], [2], [3]], make_die, KEY, tmp_path, 2)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_store_is_made_again(tmp_path):
    store, _ = encode_cached([[1, 2]], make_numbers, KEY, tmp_path, 0)
    whole = arrays(store)
    (store.folder / "ids.npy").write_bytes(whole["ids.npy"][:-2])
    again, hit = encode_cached([[1, 2]], make_numbers, KEY, tmp_path, 0)
    assert not hit
    assert arrays(again) == whole


def test_two_processes_at_the_same_work(tmp_path):
    """The other one finishes while this one encodes: its store is taken, nothing else is left behind."""

    def chunks():
        yield [1]
        encode_cached([[1], [2]], make_numbers, KEY, tmp_path, 0)
        yield [2]

    store, hit = encode_cached(chunks(), make_numbers, KEY, tmp_path, 0)
    assert (hit, [example.where for example in store]) == (False, ["numbers:1", "numbers:2"])
    assert [path.name for path in tmp_path.iterdir()] == [KEY]
