"""A hub of models on this machine alone: enough of one for huggingface_hub to fetch from.

Source: the requests that huggingface_hub 0.30 to 2.4 makes: a model's listing, its tree, and files
by HEAD and GET, with `ETag`, `X-Repo-Commit`, `Range` and the error codes that it tells apart.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """The files of each commit, and what revisions point to."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    token: str = ""
    gated: bool = False


class FakeHub:
    """Serves repositories until it is left.

    Attributes:
        asked: Method, path and `Range` header of every request, in order.
        cut: Paths of files whose next GET breaks off in the middle.
        fail: A status to answer every request with.
        fail_files: A status to answer every request for a file with.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.cut: set[str] = set()
        self.fail = 0
        self.fail_files = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def push(
        self, name: str, files: Mapping[str, bytes], revision: str = "main", **how: Any
    ) -> str:
        """Add a commit to a repository, made if need be, and return it."""
        repository = self.repositories.setdefault(name, Repository(**how))
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        repository.commits[digest] = dict(files)
        repository.revisions[revision] = digest
        return digest

    def fetched(self) -> list[str]:
        """The files that were asked for by GET, in the order of their names."""
        parts = [path.split("/resolve/", 1) for method, path, _ in self.asked if method == "GET"]
        return sorted({part[1].split("/", 1)[1] for part in parts if len(part) == 2})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._route(body=True)

        def do_HEAD(self) -> None:
            self._route(body=False)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

        def _route(self, *, body: bool) -> None:
            path = urlsplit(self.path).path
            hub.asked.append((self.command, unquote(path), self.headers.get("Range")))
            parts = [unquote(part) for part in path.strip("/").split("/")]
            is_api = parts[:2] == ["api", "models"]
            parts = parts[2:] if is_api else parts
            repository = hub.repositories.get("/".join(parts[:2]))
            given = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if hub.fail or (hub.fail_files and not is_api):
                return self._say(hub.fail or hub.fail_files, b"")
            if repository is None:
                return self._say(404 if given else 401, b"", {"X-Error-Code": "RepoNotFound"})
            if repository.token and given != repository.token:
                if not repository.gated:
                    return self._say(401, b"", {"X-Error-Code": "RepoNotFound"})
                if not is_api:  # anybody may see what a gated repository lists
                    return self._say(403 if given else 401, b"", {"X-Error-Code": "GatedRepo"})
            revision = parts[3] if len(parts) > 3 else "main"
            commit = repository.revisions.get(revision, revision)
            if commit not in repository.commits:
                return self._say(404, b"", {"X-Error-Code": "RevisionNotFound"})
            files = repository.commits[commit]
            if is_api:
                tree = len(parts) > 2 and parts[2] == "tree"
                answer = _tree(files) if tree else _model("/".join(parts[:2]), commit, files)
                return self._say(200, json.dumps(answer).encode())
            return self._file("/".join(parts[4:]), files, commit, body=body)

        def _file(self, name: str, files: dict[str, bytes], commit: str, *, body: bool) -> None:
            headers = {"X-Repo-Commit": commit}
            if name not in files:
                return self._say(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
            data = files[name]
            headers |= {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
            headers["X-Linked-Size"] = str(len(data))
            status, asked = 200, self.headers.get("Range")
            if asked is not None:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                status, data = 206, data[start:]
            if body and name in hub.cut:
                hub.cut.discard(name)
                self.close_connection = True
                return self._say(status, data, headers, sent=len(data) // 2)
            return self._say(status, data, headers)

        def _say(
            self,
            status: int,
            data: bytes,
            headers: Mapping[str, str] | None = None,
            *,
            sent: int | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[:sent])

    return Handler


def _model(name: str, commit: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    listing = [{"rfilename": path} for path in sorted(files)]
    return {
        "id": name, "modelId": name, "sha": commit, "siblings": listing, "private": False,
        "tags": [], "downloads": 0, "likes": 0, "gated": False, "disabled": False,
    }  # fmt: skip


def _tree(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for path, data in sorted(files.items())
    ]
