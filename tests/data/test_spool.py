"""Samples on disk: what goes in comes out, choices are views, and memory does not grow with the texts."""

from __future__ import annotations

import datetime as dt
import gc
import os
import tracemalloc

import numpy as np
import pytest

from finetune.data.duplicates import fingerprint
from finetune.data.rows import Sample
from finetune.data.spool import FACTS, SampleFile, Spool, block


def sample(n: int, text: str = "", task: str = "") -> Sample:
    messages = ({"role": "user", "content": f"{n}?{text}"}, {"role": "assistant", "content": f"it is {n}"})
    return Sample({"n": n, "day": dt.date(2024, 1, 1 + n % 28)}, messages, f"f{n % 3}.jsonl:{n}", (), task)


def test_a_choice_is_a_sequence_of_the_very_samples():
    """Typed records (a date stays one), any order, as often as chosen; slices and negative places as of a list."""
    samples = [sample(n) for n in range(1200)]  # three blocks of 512 at most
    file = SampleFile.of(samples)
    assert list(file) == samples and len(file) == 1200
    assert (file[0], file[-1], file[700]) == (samples[0], samples[-1], samples[700])
    assert list(file[1100:5:-7]) == samples[1100:5:-7]
    chosen = file.pick(np.array([5, 5, 1199, 0]))
    assert list(chosen) == [samples[5], samples[5], samples[1199], samples[0]]
    assert list(chosen.pick(np.array([False, True, True, False]))) == [samples[5], samples[1199]]
    assert [s for part in chosen.blocks(3) for s in part] == list(chosen)
    assert [len(part) for part in chosen.blocks(3)] == [3, 1]
    with pytest.raises(IndexError):
        chosen[4]


def test_what_stays_in_memory_of_a_sample():
    """Digests as `fingerprint` gives them, the source, file, line and task as numbers into tables."""
    spool = Spool()
    spool.add(block([sample(4, task="a"), sample(2, task="b")]), source=1)
    spool.add(block([sample(5, task="b"), Sample({}, (), "whole", ())]), source=0)
    samples = spool.samples()
    digests = [fingerprint(sample(n)) for n in (4, 2, 5)]
    assert samples.facts("raw").tolist() == [*(d.raw.rstrip(b"\0") for d in digests), b""]
    assert samples.facts("prompt").tolist() == [*(d.prompt.rstrip(b"\0") for d in digests), b""]
    assert samples.facts("source").tolist() == [1, 1, 0, 0]
    assert samples.facts("line").tolist() == [4, 2, 5, -1]
    assert ([*spool.files], samples.facts("file").tolist()) == (["f1.jsonl", "f2.jsonl", "whole"], [0, 1, 1, 2])
    assert ([*spool.tasks], samples.facts("task").tolist()) == (["a", "b", ""], [0, 1, 1, 2])
    assert spool.source_of_file == {"f1.jsonl": 1, "f2.jsonl": 1, "whole": 0}
    assert FACTS.itemsize == 66


def test_a_replaced_sample_keeps_its_source_and_has_its_own_digests():
    spool = Spool()
    spool.add(block([sample(0), sample(1)]), source=3)
    number = spool.replace(1, sample(9))
    assert number == 2 and spool.facts["source"].tolist() == [3, 3, 3]
    assert list(SampleFile(spool, np.array([0, number]))) == [sample(0), sample(9)]
    assert spool.facts["raw"][number] == block([sample(9)]).facts["raw"][0]


@pytest.mark.slow
def test_memory_is_digests_and_numbers_whatever_the_length_of_the_texts():
    """20,000 samples of 2,000 characters each: 66 + 8 bytes of facts each with room to double, and 8 of the choice."""
    spool = Spool()
    tracemalloc.start()
    for start in range(0, 20_000, 500):
        spool.add(block([sample(n, "x" * 2000) for n in range(start, start + 500)]))
    samples = spool.samples()
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(samples) == 20_000
    assert used < 20_000 * (2 * 74 + 8) + 100_000


def test_the_file_has_no_name_and_is_closed_with_its_spool(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    samples = SampleFile.of([sample(1)])
    handle = samples.spool._file.fileno()
    assert list(tmp_path.iterdir()) == [] and os.fstat(handle).st_size > 0
    del samples
    gc.collect()
    with pytest.raises(OSError):
        os.fstat(handle)


def test_samples_made_later_are_made_when_asked_for():
    samples, made = [sample(n) for n in range(5)], []
    file = SampleFile.later(5, lambda: made.append(1) or SampleFile.of(samples))
    assert len(file) == 5 and bool(file) and made == []
    assert list(file) == samples and file[3] == samples[3] and made == [1]
    assert file.facts("line").tolist() == [0, 1, 2, 3, 4] and list(file[1:3]) == samples[1:3] and made == [1]
