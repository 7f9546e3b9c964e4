"""A real YAML language server reads the schema that a recipe's first line names: it marks mistakes, completes and explains.

Needs `yaml-language-server` on the PATH (`npm install -g yaml-language-server`); tests/test_schema.py holds the schema
itself to `finetune check` without one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

SERVER = shutil.which("yaml-language-server")
pytestmark = pytest.mark.skipif(SERVER is None, reason="no yaml-language-server on the PATH (npm install -g it)")

RECIPE = """\
# yaml-language-server: $schema=recipe.schema.json
extends: smollm2_cpu.yaml
name: mine
output_dir: runs/mine
data:
  template: gas_alarm.yaml
  train: rows.jsonl
train:
  learning_rat: 1e-3
  lr_scheduler_type: cosin
lora:
  r: -4
"""


class Client:
    """JSON-RPC over the server's pipes, as an editor speaks it."""

    def __init__(self) -> None:
        assert SERVER is not None
        self.child = subprocess.Popen([SERVER, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.number = 0
        self.told: list[dict[str, Any]] = []

    def send(self, method: str, params: dict[str, Any], number: int | None = None) -> None:
        body = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if number is None else {"id": number})
        self.write(body)

    def write(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        assert self.child.stdin is not None
        self.child.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
        self.child.stdin.flush()

    def read(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        length = 0
        while (line := self.child.stdout.readline().strip()) or not length:
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        message: dict[str, Any] = json.loads(self.child.stdout.read(length))
        if "id" in message and "method" in message:  # the server asks for the editor's settings: it has none
            items = message["params"].get("items", []) if message["method"] == "workspace/configuration" else None
            self.write({"jsonrpc": "2.0", "id": message["id"], "result": items and [None] * len(items)})
        return message

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        self.number += 1
        self.send(method, params, self.number)
        while (message := self.read()).get("id") != self.number or "method" in message:
            self.told.append(message)
        assert "error" not in message, message
        return message["result"]

    def diagnostics(self) -> list[dict[str, Any]]:
        """What the server says of the opened file, once it has looked at it."""
        while True:
            message = self.told.pop(0) if self.told else self.read()
            if message.get("method") == "textDocument/publishDiagnostics":
                return message["params"]["diagnostics"]


@pytest.fixture
def client(tmp_path) -> Iterator[Client]:
    client = Client()
    client.ask("initialize", {"processId": None, "rootUri": tmp_path.as_uri(), "capabilities": {}})
    client.send("initialized", {})
    yield client
    client.child.kill()
    client.child.communicate()  # closes its pipes


def opened(client: Client, file: Path, text: str) -> str:
    client.send(
        "textDocument/didOpen",
        {"textDocument": {"uri": file.as_uri(), "languageId": "yaml", "version": 1, "text": text}},
    )
    return file.as_uri()


@pytest.fixture
def beside_its_schema(tmp_path) -> Path:
    shutil.copy(ROOT / "recipes/recipe.schema.json", tmp_path)
    return tmp_path / "mine.yaml"


def test_it_marks_mistakes_where_they_stand(client, beside_its_schema):
    opened(client, beside_its_schema, RECIPE)
    found = {(d["range"]["start"]["line"], d["message"]) for d in client.diagnostics()}
    lines = RECIPE.splitlines()
    marked = {lines[line].strip() for line, _ in found}
    assert marked == {"learning_rat: 1e-3", "lr_scheduler_type: cosin", "r: -4"}, found
    assert any("learning_rat" in message for _, message in found)


def test_a_shipped_recipe_has_none(client):
    file = ROOT / "recipes/meteorology/metar_decode.yaml"
    opened(client, file, file.read_text(encoding="utf-8"))
    assert client.diagnostics() == []


def test_it_completes_and_explains_keys(client, beside_its_schema):
    text = RECIPE.replace("learning_rat: 1e-3", "learning_rate: 1e-3\n  ")
    uri = opened(client, beside_its_schema, text)
    line = text.splitlines().index("  learning_rate: 1e-3")
    place = {"textDocument": {"uri": uri}, "position": {"line": line, "character": 6}}
    told = client.ask("textDocument/hover", place)
    assert "peak rate" in json.dumps(told)
    offered = client.ask("textDocument/completion", place | {"position": {"line": line + 1, "character": 2}})
    labels = {item["label"] for item in offered["items"]}
    assert labels >= {"max_steps", "global_batch_size", "warmup_ratio"} and "learning_rate" not in labels
