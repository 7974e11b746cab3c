"""Stand-ins for the hub: its cache on disk, and a server that answers what its client asks to read a repository."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from support.local_server import running


def cache_snapshot(cache: Path, name: str, folder: Path, commit: str, *revisions: str) -> Path:
    """Put a folder into a hub cache as the snapshot of a commit, with branches that point to it."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    (repository / "refs").mkdir(exist_ok=True)
    for revision in revisions:
        (repository / "refs" / revision).write_text(commit)
    return snapshot


@contextmanager
def serving(name: str, folders: dict[str, Path], token: str) -> Iterator[tuple[str, list[str]]]:
    """A private repository on a local server: (its address, the paths asked for).

    Args:
        name: ``org/name``.
        folders: the files of each revision.
        token: without it every request is refused.
    """
    commits = {revision: hashlib.sha1(revision.encode()).hexdigest() for revision in folders}
    by_commit = {commits[revision]: folder for revision, folder in folders.items()}
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            asked.append(path)
            if self.headers.get("Authorization") != f"Bearer {token}":
                return self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
            if path.startswith(f"/api/models/{name}/revision/"):
                revision = path.rsplit("/", 1)[1]
                if revision not in commits:
                    return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return self.answer(200, json.dumps({"id": name, "sha": commits[revision], "siblings": []}).encode())
            if path.startswith(f"/api/models/{name}/tree/"):
                folder = by_commit[path.rsplit("/", 1)[1]]
                files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
                entries = [
                    {
                        "type": "file",
                        "path": file.relative_to(folder).as_posix(),
                        "size": file.stat().st_size,
                        "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
                    }
                    for file in files
                ]
                return self.answer(200, json.dumps(entries).encode())
            _, _, rest = path.partition(f"/{name}/resolve/")
            commit, _, file_name = rest.partition("/")
            file = by_commit[commit] / file_name
            if not file.is_file():
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            data = file.read_bytes()
            tag = f'"{hashlib.sha1(data).hexdigest()}"'
            return self.answer(200, data, {"X-Repo-Commit": commit, "ETag": tag})

        def answer(self, code: int, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for key, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

    with running(Hub) as address:
        yield address, asked
