"""A file's hash is computed once a version of it."""

from __future__ import annotations

import hashlib
import os
import time

from finetune.data import filehash
from finetune.data.filehash import SETTLED, known_sha256


def test_a_settled_file_is_read_once_and_a_changed_one_again(tmp_path, monkeypatch):
    read = []
    plain = filehash.file_sha256
    monkeypatch.setattr(filehash, "file_sha256", lambda file: read.append(file) or plain(file))
    file = tmp_path / "a"
    file.write_bytes(b"one")
    assert [known_sha256(file) for _ in range(2)] == [hashlib.sha256(b"one").hexdigest()] * 2
    assert len(read) == 2  # written just now: a second change would not show in its time stamp
    before = time.time() - 10 * SETTLED
    os.utime(file, (before, before))
    assert [known_sha256(file) for _ in range(3)] == [hashlib.sha256(b"one").hexdigest()] * 3
    assert len(read) == 3
    file.write_bytes(b"two")
    os.utime(file, (before + 1, before + 1))
    assert known_sha256(file) == hashlib.sha256(b"two").hexdigest() and len(read) == 4
