"""As much of a W&B server as a run talks to; it may fall silent after a while."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = {"id": "e", "name": "me"}


class WandbServer(ThreadingHTTPServer):
    """Keeps the rows of a run's history, as the run sends them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answers = threading.Event()
        self.answers.set()
        self.rows: list[dict[str, Any]] = []

    def answer(self, query: dict[str, Any]) -> dict[str, Any]:
        """Answer a query of the GraphQL interface; an unknown one with nothing."""
        name, values = query.get("operationName"), query.get("variables") or {}
        project = {"id": "p", "name": values.get("project"), "entity": ENTITY}
        if name == "RunResumeStatus":
            return {"model": {**project, "bucket": None}}
        if name == "UpsertBucket":
            run = {"id": "b", "name": values["name"], "displayName": values.get("displayName")}
            run |= {"config": "{}", "project": project, "historyLineCount": 0}
            return {"upsertBucket": {"bucket": run, "inserted": True}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/x"} for file in values["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {}


class _Handler(BaseHTTPRequestHandler):
    server: WandbServer

    def do_POST(self) -> None:
        body = self._body()
        lines = body.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.server.rows += [json.loads(line) for line in lines]
        self._answer({"data": self.server.answer(body)} if self.path == "/graphql" else {})

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def _body(self) -> dict[str, Any]:
        text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.answers.wait(60)
        try:
            return json.loads(text)
        except ValueError:  # a file
            return {}

    def _answer(self, value: dict[str, Any]) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A server that runs while the block does."""
    with WandbServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.answers.set()
            server.shutdown()
