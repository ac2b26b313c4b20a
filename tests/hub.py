"""A Hugging Face hub on this machine: the addresses that a download or an upload needs, over real HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "hf_ours"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`files` by repository and path. cut: bytes after which the next download of a file breaks off; stall: after which
    every one hangs. lie: claim a wrong
    checksum. ranges: the Range headers that were asked for."""

    address: str = ""
    files: dict[str, dict[str, Path]] = field(default_factory=dict)
    cut: int | None = None
    stall: int | None = None
    lie: bool = False
    inflate: int = 0
    ranges: list[str] = field(default_factory=list)
    stored: Path = Path()  # where uploads go
    private: dict[str, bool] = field(default_factory=dict)  # repositories that were made
    sent: list[str] = field(default_factory=list)  # checksums of large files that arrived
    commits: list[str] = field(default_factory=list)
    refuse: int = 0  # large files that the server fails to take before one goes through


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _allowed(self) -> bool:
            if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                return True
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False

        def _json(self, value: Any) -> None:
            self._send(json.dumps(value).encode(), True, "application/json")

        def do_POST(self) -> None:
            path, body = self.path.split("?")[0], self.rfile.read(int(self.headers["Content-Length"]))
            if not self._allowed():
                return None
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                hub.private.setdefault(name, asked.get("visibility") == "private")
                hub.files.setdefault(name, {})
                return self._json({"url": f"{hub.address}/{name}"})
            if path == "/api/validate-yaml":
                return self._json({"warnings": [], "errors": []})
            if path.endswith(".git/info/lfs/objects/batch"):
                objects = json.loads(body)["objects"]
                for one in objects:
                    if not (hub.stored / one["oid"]).exists():
                        one["actions"] = {"upload": {"href": f"{hub.address}/lfs/{one['oid']}"}}
                return self._json({"objects": objects})
            name, _, what = path.removeprefix("/api/models/").rpartition("/main")[0].rpartition("/")
            if what == "preupload":
                modes = [
                    {"path": f["path"], "uploadMode": "regular" if f["path"].endswith((".json", ".md")) else "lfs"}
                    for f in json.loads(body)["files"]
                ]
                return self._json({"files": [mode | {"shouldIgnore": False} for mode in modes]})
            if what == "commit":
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "header":
                        hub.commits.append(value["summary"])
                    elif line["key"] == "file":
                        made = hub.stored / hashlib.sha256(body + value["path"].encode()).hexdigest()
                        made.write_bytes(base64.b64decode(value["content"]))
                        hub.files[name][value["path"]] = made
                    else:
                        hub.files[name][value["path"]] = hub.stored / value["oid"]
                return self._json({"commitOid": COMMIT, "commitUrl": f"{hub.address}/{name}/commit/{COMMIT}"})
            return self._missing()

        def do_PUT(self) -> None:
            data, oid = self.rfile.read(int(self.headers["Content-Length"])), self.path.rpartition("/")[2]
            hub.refuse -= 1
            if hub.refuse >= 0 or hashlib.sha256(data).hexdigest() != oid:
                self.send_response(400)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            (hub.stored / oid).write_bytes(data)
            hub.sent.append(oid)
            self._send(b"", True, "text/plain")

        def do_HEAD(self) -> None:
            self.do_GET(body=False)

        def _missing(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self, body: bool = True) -> None:
            path = self.path.split("?")[0]
            if path.startswith("/api/models/"):
                name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
                if name not in hub.files or revision not in ("", "main", COMMIT):
                    return self._missing()
                siblings = []
                for file, where in hub.files[name].items():
                    digest = "0" * 64 if hub.lie else hashlib.sha256(where.read_bytes()).hexdigest()
                    size = where.stat().st_size + hub.inflate
                    lfs = {"sha256": digest, "size": size, "pointerSize": 130}
                    siblings.append({"rfilename": file, "size": size, "lfs": lfs})
                card = {"license": "apache-2.0"}
                data = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "cardData": card, "tags": []}
                return self._send(json.dumps(data).encode(), body, "application/json")
            parts = path.strip("/").split("/")
            name, file = "/".join(parts[:2]), "/".join(parts[4:])
            if len(parts) < 5 or parts[2] != "resolve" or file not in hub.files.get(name, {}):
                return self._missing()
            self._send(hub.files[name][file].read_bytes(), body, "application/octet-stream")
            return None

        def _send(self, data: bytes, body: bool, kind: str) -> None:
            etag, start, total = hashlib.sha256(data).hexdigest(), 0, len(data)
            asked = self.headers.get("Range")
            if asked and body:
                hub.ranges.append(asked)
                start = int(asked.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", kind)
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.send_header("Content-Length", str(total - start))
            self.end_headers()
            if not body:
                return
            if hub.cut is not None and kind == "application/octet-stream":
                cut, hub.cut = hub.cut, None
                self.wfile.write(data[start : start + cut])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if hub.stall is not None and kind == "application/octet-stream" and start + hub.stall < total:
                self.wfile.write(data[start : start + hub.stall])
                self.wfile.flush()
                while hub.stall is not None:
                    time.sleep(0.05)
                return
            self.wfile.write(data[start:])

    return Handler


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub until the block ends."""
    held = tempfile.TemporaryDirectory()
    hub = Hub(stored=Path(held.name))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        held.cleanup()
