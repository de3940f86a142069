"""Questions to a run that is alive: the process that owns its file answers readers of this machine, one statement at a time.

The answering side is an HTTP server on the loopback interface. Its address and a secret lie in the run's folder, readable by the
run's user alone; statements can read telemetry and nothing else, within limits that the answering side sets too.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
import socket
import threading
import urllib.request
from contextlib import suppress
from dataclasses import asdict
from http import HTTPStatus
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.error import HTTPError

import duckdb

from esper.karn.report.rendering import plain
from esper.karn.sandbox import Answer, QueryError, QueryLimits, answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger(__name__)

ADDRESS_FILE = "telemetry.live.json"
CONNECT_SEC = 5.0
"""Longest wait for a run to answer, beyond the time that the statement may take."""
MOST = QueryLimits(max_rows=100_000, timeout_sec=60.0)
"""Limits that no question exceeds."""
MAX_QUESTION_BYTES = 1 << 20
INTERRUPT_SEC = 0.05
"""Time between two attempts to interrupt a statement at the end."""


class LiveAnswers:
    """Answers questions until it is closed.

    Args:
        folder: The run's, where the address is left.
        open_reader: Opens a further connection to the file, on which nothing else is reachable.

    Raises:
        OSError: If there is no loopback interface, or the address cannot be written.
    """

    def __init__(self, folder: Path, open_reader: Callable[[], Any]) -> None:
        self._address = folder / ADDRESS_FILE
        token = secrets.token_hex(32)
        self._server = _Server(("127.0.0.1", 0), token, open_reader)
        try:
            _write_private(self._address, {"host": socket.gethostname(), "port": self._server.server_port, "token": token})
        except OSError:
            self._server.server_close()
            raise
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="live-answers", daemon=True)
        self._thread.start()

    @classmethod
    def start(cls, folder: Path, open_reader: Callable[[], Any]) -> Self | None:
        """Begin to answer; None, and a line in the log, where that is not possible."""
        try:
            return cls(folder, open_reader)
        except OSError as error:
            logger.info("this run answers no questions while it lives: %s", error)
            return None

    def close(self) -> None:
        """Stop the question in progress, and answer no other."""
        self._address.unlink(missing_ok=True)
        self._server.stop_reading()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def ask_live(run_dir: Path, sql: str, limits: QueryLimits) -> Answer | None:
    """Ask the run in `run_dir`, which may be alive on this machine.

    Returns:
        The answer, with values as JSON has them; None if nobody answers.

    Raises:
        QueryError: If the statement does not read, is wrong, or exceeds its limits.
    """
    try:
        address = json.loads((run_dir / ADDRESS_FILE).read_text())
        if address["host"] != socket.gethostname():
            return None
        url, token = f"http://127.0.0.1:{int(address['port'])}/", str(address["token"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    request = urllib.request.Request(url, json.dumps({"sql": sql, **asdict(limits)}).encode(), {"Authorization": f"Bearer {token}"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=limits.timeout_sec + CONNECT_SEC) as response:
            found = json.loads(response.read())
        return Answer(tuple(found["columns"]), tuple(map(tuple, found["rows"])), bool(found["is_cut"]))
    except HTTPError as error:
        if error.code == HTTPStatus.UNPROCESSABLE_ENTITY:
            raise QueryError(error.read().decode()) from error
        return None
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], token: str, open_reader: Callable[[], Any]) -> None:
        super().__init__(address, _Handler)
        self.token = token
        self._open_reader = open_reader
        self._turn = threading.Lock()
        self._reader: Any = None
        self._is_stopping = False

    def ask(self, sql: str, limits: QueryLimits) -> Answer:
        """Run a statement when those before it are done."""
        with self._turn:
            if self._is_stopping:
                raise QueryError("the run is ending")
            self._reader = self._open_reader()
            try:
                self._reader.execute("BEGIN TRANSACTION READ ONLY")  # a SELECT over a WITH that inserts passes for one that reads
                return answer(self._reader, sql, limits)
            finally:
                reader, self._reader = self._reader, None
                reader.close()

    def stop_reading(self) -> None:
        """Interrupt the statement in progress until it has let go of the file: one that is about to begin does not notice."""
        self._is_stopping = True
        while not self._turn.acquire(timeout=INTERRUPT_SEC):
            reader = self._reader
            if reader is not None:
                with suppress(duckdb.Error):  # closed meanwhile
                    reader.interrupt()
        self._turn.release()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CONNECT_SEC

    def do_POST(self) -> None:
        """Answer one question."""
        told = self.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(told, f"Bearer {self.server.token}".encode()):
            self._reply(HTTPStatus.FORBIDDEN, b"")
            return
        try:
            asked = json.loads(self.rfile.read(min(int(self.headers.get("Content-Length", "0")), MAX_QUESTION_BYTES)))
            limits = QueryLimits(min(int(asked["max_rows"]), MOST.max_rows), min(float(asked["timeout_sec"]), MOST.timeout_sec))
            found = self.server.ask(str(asked["sql"]), limits)
        except QueryError as error:
            self._reply(HTTPStatus.UNPROCESSABLE_ENTITY, str(error).encode())
        except (ValueError, KeyError, TypeError) as error:
            self._reply(HTTPStatus.BAD_REQUEST, str(error).encode())
        else:
            values = {"columns": found.columns, "rows": plain(found.rows), "is_cut": found.is_cut}
            self._reply(HTTPStatus.OK, json.dumps(values).encode())

    def log_message(self, format: str, *values: object) -> None:  # noqa: A002 - the name that the base class gives it
        """Leave the terminal to the run."""

    def _reply(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _write_private(path: Path, values: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(values, file)
    os.replace(temporary, path)
