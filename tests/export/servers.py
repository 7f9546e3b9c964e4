"""The two hubs as far as an upload goes: an HTTP server on this machine that keeps what it is sent, or says no."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

DROP = 0  # as a status: the connection is cut without an answer


class Hub:
    """What has been sent.

    Attributes:
        refuse: (method, pattern of the path) to the status to answer with instead.
        private: of the repository, as the hub tells it; None where there is none yet.
        requests: (method, path, body) in order. tokens: of their Authorization headers.
        regular, large: files of the commits by name, those sent within a commit and those sent as LFS objects.
    """

    def __init__(self) -> None:
        self.url = ""
        self.refuse: dict[tuple[str, str], int] = {}
        self.private: bool | None = None
        self.requests: list[tuple[str, str, bytes]] = []
        self.tokens: set[str | None] = set()
        self.objects: dict[str, bytes] = {}
        self.regular: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}

    @property
    def files(self) -> dict[str, bytes]:
        return self.regular | self.large

    def paths(self, method: str) -> list[str]:
        return [path.partition("?")[0] for verb, path, _body in self.requests if verb == method]

    def body(self, pattern: str) -> Any:
        return next(json.loads(body) for _verb, path, body in self.requests if re.search(pattern, path))

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status of one request, and what is sent as JSON, or text as it is."""
        for (verb, pattern), status in self.refuse.items():
            if verb == method and re.search(pattern, path):
                return status, {"error": "the reason of the hub", "Message": "the reason of the hub"}
        if method == "PUT" and path.startswith("/lfs/"):
            self.objects[hashlib.sha256(body).hexdigest()] = body
            return 200, {}
        return self._answer(method, path, body)

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        raise NotImplementedError

    def _batch(self, body: bytes) -> list[dict[str, Any]]:
        objects = json.loads(body)["objects"]
        return [item | {"actions": {"upload": {"href": f"{self.url}/lfs/{item['oid']}"}}} for item in objects]


class HuggingFace(Hub):
    """https://huggingface.co/docs/hub/api and git-lfs' batch API, as huggingface_hub calls them."""

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        path = path.partition("?")[0]
        if path == "/api/repos/create":
            if self.private is not None:
                return 409, {"error": "You already created this model repo", "url": f"{self.url}/org/model"}
            asked = json.loads(body)
            self.private = asked.get("visibility") == "private" or asked.get("private") is True
            return 200, {"url": f"{self.url}/org/model"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if method == "GET" and path == "/api/models/org/model" and self.private is not None:
            return 200, {"_id": "1", "id": "org/model", "private": self.private, "tags": [], "siblings": []}
        if "/branch/" in path:
            return 201, {}
        if "/preupload/" in path:
            modes = [{"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                      "shouldIgnore": False} for file in json.loads(body)["files"]]  # fmt: skip
            return 200, {"files": modes}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": self._batch(body)}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.regular[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    self.large[line["value"]["path"]] = self.objects[line["value"]["oid"]]
            oid = "a" * 40
            return 200, {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/org/model/commit/{oid}",
                         "hookOutput": ""}  # fmt: skip
        return 404, {"error": f"unknown to the test: {method} {path}"}


class ModelScope(Hub):
    """The endpoints of modelscope-hub 0.5's legacy client."""

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        path = path.partition("?")[0]
        if path == "/api/v1/models":
            if self.private is not None:
                return 400, {"Code": 10010200001, "Message": "model already exists", "Success": False}
            self.private = json.loads(body)["Visibility"] == 1
            return 200, {"Code": 200, "Data": {}, "Success": True}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [{"oid": item["oid"], "size": item["size"], "actions": item["actions"]}
                       for item in self._batch(body)]  # fmt: skip
            return 200, {"Code": 200, "Data": {"objects": objects}, "Success": True}
        if "/commit/" in path:
            for action in json.loads(body)["actions"]:
                if action["type"] == "lfs":
                    self.large[action["path"]] = self.objects[action["sha256"]]
                else:
                    self.regular[action["path"]] = base64.b64decode(action["content"])
            return 200, {"Code": 200, "Data": {"oid": "a" * 40}, "Success": True}
        visibility = {"Visibility": 1 if self.private else 5, "visibility": "private" if self.private else "public"}
        return 200, {"Code": 200, "Success": True, "success": True, "Data": visibility, "data": visibility}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version: ClassVar[str] = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b"".join(iter(self._chunk, b""))
            hub.requests.append((self.command, self.path, body))
            hub.tokens.add(self.headers.get("Authorization"))
            status, content = hub.answer(self.command, self.path, body)
            if status == DROP:
                self.close_connection = True
                return
            text = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_HEAD = do  # noqa: N815 - the names that http.server calls

        def _chunk(self) -> bytes:
            size = int(self.rfile.readline(), 16)
            chunk = self.rfile.read(size)
            self.rfile.readline()
            return chunk

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
