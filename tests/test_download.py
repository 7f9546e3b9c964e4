"""A base that is not on this machine comes from the hub, or the mirror that HF_ENDPOINT names, and the run says so."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import ROOT, write_tiny_recipe

COMMIT = "c" * 40


@contextmanager
def mirror(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A server that gives the files of `org/tiny` as the hub does; its address and what was fetched."""
    fetched: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.give(whole=False)

        def do_GET(self) -> None:
            self.give(whole=True)

        def give(self, whole: bool) -> None:
            path = self.path.partition("?")[0]
            if path.startswith("/api/models/org/tiny"):
                files = [{"rfilename": file.name} for file in folder.iterdir()]
                tree = [{"type": "file", "path": file.name, "oid": "0", "size": 1} for file in folder.iterdir()]
                told = tree if "/tree/" in path else {"id": "org/tiny", "sha": COMMIT, "siblings": files}
                return self.send(200, json.dumps(told).encode(), {"Content-Type": "application/json"}, whole)
            match = re.fullmatch(r"/org/tiny/resolve/[^/]+/(.+)", path)
            file = folder / match[1] if match else None
            if file is None or not file.is_file():
                missing = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
                return self.send(404, b"", missing, whole)
            data = file.read_bytes()
            if whole:
                fetched.append(file.name)
            tag = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            return self.send(200, data, tag, whole)

        def send(self, status: int, data: bytes, headers: dict[str, str], whole: bool) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(name, value)
            self.end_headers()
            if whole:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", fetched
    finally:
        server.shutdown()
        server.server_close()


def command(tmp_path: Path, data: Path, endpoint: str) -> tuple[list[str], dict[str, str]]:
    file = write_tiny_recipe(tmp_path, Path("org/tiny"), data)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": endpoint, "OMP_NUM_THREADS": "1", "TERM": "xterm"}
    return [sys.executable, "-m", "finetune.cli", "train", str(file), "--set", "train.max_steps=2"], environment


@pytest.mark.slow
def test_a_base_comes_from_a_mirror_once(tiny_base, tiny_data, tmp_path):
    with mirror(tiny_base) as (endpoint, fetched):
        words, environment = command(tmp_path, tiny_data, endpoint)
        first = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=ROOT)
        assert first.returncode == 0, first.stderr
        line = f"base: downloading org/tiny from {endpoint} to {tmp_path / 'home/hub'}\n"
        assert first.stdout.count(line) == 1 and "model.safetensors" in fetched
        assert "%" not in first.stderr  # no bars in a pipe
        weights = fetched.count("model.safetensors")
        again = subprocess.run([*words, "--overwrite"], env=environment, capture_output=True, text=True, cwd=ROOT)
        assert again.returncode == 0, again.stderr
        assert "downloading" not in again.stdout and fetched.count("model.safetensors") == weights == 1
    base = json.loads((tmp_path / "run/bundle/MANIFEST.json").read_text())["base"]
    assert base["commit"] == COMMIT


@pytest.mark.slow
def test_a_terminal_sees_how_far_a_download_is(tiny_base, tiny_data, tmp_path):
    with mirror(tiny_base) as (endpoint, _):
        words, environment = command(tmp_path, tiny_data, endpoint)
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (40, 120))
        child = subprocess.Popen(
            [*words, "--set", "export.golden_rows=1"], stdout=theirs, stderr=theirs, cwd=ROOT, env=environment
        )
        os.close(theirs)
        seen = b""
        try:
            while part := os.read(ours, 4096):
                seen += part
        except OSError:  # the child has ended
            pass
        os.close(ours)
        assert child.wait() == 0, seen.decode()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    assert "downloading org/tiny" in text and re.search(r"model\.safetensors: +\d+%", text)
    assert re.search(r"training .*\d+/2 .*left", text)
