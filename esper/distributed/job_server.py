"""Talks to a cluster's job server: hands a job in, watches it, reads what it prints, stops it. Knows nothing of training."""

from __future__ import annotations

import asyncio
import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import requires
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from esper.distributed.executor import ClusterError
from esper.distributed.submit import RUN_DIR_KEY
from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from esper.distributed.submit import JobRequest

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ANSWER_SEC = 5.0
"""Longest wait for the first answer."""
POLL_SEC = 1.0
RECONNECT_SEC = 60.0
"""Longest silence of a server that has answered before."""
_CHATTERERS = ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")
"""Loggers whose everyday messages would stand between the run's own lines."""
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


@dataclass(frozen=True, slots=True)
class JobState:
    """What the server knows about one job."""

    submission_id: str
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    is_over: bool
    message: str
    run_dir: str | None
    started_at: datetime | None
    ended_at: datetime | None


class JobServer:
    """A cluster's job server that has answered.

    server = JobServer.connect("http://head:8265")
    submission_id = server.submit(request)
    state = server.wait(submission_id)
    """

    def __init__(self, address: str, session: str, client: Any) -> None:
        self.address = address
        self._session = session
        self._client = client

    @classmethod
    def connect(cls, address: str | None) -> Self:
        """Ask the server who it is, and join it.

        Args:
            address: As `http://head:8265`; None takes what `RAY_API_SERVER_ADDRESS` or `RAY_ADDRESS` say, or this machine.

        Raises:
            ConfigError: If the address is none of a job server.
            ClusterError: If nobody answers there, or a Ray that Esper does not work with.
        """
        url = resolve_address(address, os.environ)
        if _knock(url):
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported, which then looks for the user's token
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for name in _CHATTERERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            with _without(_ADDRESS_VARIABLES):  # Ray would prefer them to the address that it is given
                client = JobSubmissionClient(url)
            # Its public methods tell neither Ray's version nor the session.
            identity = client._do_request("GET", "/api/version", timeout=ANSWER_SEC).json()
            require_version(identity["ray_version"], where=url)
        except AuthenticationError as error:
            raise ClusterError(
                f"{url} asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's "
                "(`ray get-auth-token` prints it there)"
            ) from error
        except ClusterError:
            raise
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ClusterError(f"{url} answers, but not as a Ray job server") from error
        return cls(url, str(identity.get("session_name", "")), client)

    @property
    def is_same_machine(self) -> bool:
        """Whether the cluster's head is this machine, and not one behind a forwarded port."""
        root = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
        return bool(self._session) and (root / "ray" / self._session).is_dir()

    def jobs(self) -> list[JobState]:
        """Every job of Esper's that the cluster remembers, oldest first."""
        with _reported("the list of jobs", self.address):
            details = self._client.list_jobs()
        states = [_state(job) for job in details if job.submission_id and RUN_DIR_KEY in (job.metadata or {})]
        return sorted(states, key=lambda state: state.started_at or datetime.max.replace(tzinfo=UTC))

    def state(self, submission_id: str) -> JobState:
        """How a job stands.

        Raises:
            ConfigError: If there is no such job.
            ClusterError: If the server does not answer any more.
        """
        for state in self.jobs():
            if state.submission_id == submission_id:
                return state
        known = ", ".join(state.submission_id for state in self.jobs()) or "none"
        raise ConfigError(f"{self.address} knows no job {submission_id!r}; known: {known}")

    def submit(self, request: JobRequest) -> str:
        """Upload the project and start the job; returns its submission id.

        Raises:
            ClusterError: If another job is at work on the same run, or the server refuses.
        """
        run_dir = request.metadata[RUN_DIR_KEY]
        for state in self.jobs():
            if state.run_dir == run_dir and not state.is_over:
                raise ClusterError(
                    f"job {state.submission_id} is {state.status} and writes to {run_dir}; wait for it, or stop it with: "
                    f"esper submit stop {state.submission_id}"
                )
        with _reported(f"job {request.submission_id}", self.address):
            submission_id: str = self._client.submit_job(
                entrypoint=request.entrypoint,
                submission_id=request.submission_id,
                runtime_env=request.runtime_env,
                metadata=request.metadata,
                entrypoint_num_cpus=request.entrypoint_cpus or None,
            )
        return submission_id

    def stop(self, submission_id: str) -> None:
        """Ask a job to end; it has a few seconds to drain."""
        self.state(submission_id)
        with _reported(f"stopping {submission_id}", self.address):
            self._client.stop_job(submission_id)

    def logs(self, submission_id: str) -> str:
        """All that a job has printed so far."""
        self.state(submission_id)
        with _reported(f"logs of {submission_id}", self.address):
            text: str = self._client.get_job_logs(submission_id)
        return text

    def wait(self, submission_id: str, *, timeout_sec: float | None = None) -> JobState:
        """Wait until the job is over, or for so long.

        Raises:
            ClusterError: If the server stays silent.
        """
        deadline = None if timeout_sec is None else time.monotonic() + timeout_sec
        last_answer = time.monotonic()
        while True:
            try:
                state = self.state(submission_id)
                last_answer = time.monotonic()
                if state.is_over or (deadline is not None and last_answer > deadline):
                    return state
            except ClusterError:
                if time.monotonic() - last_answer > RECONNECT_SEC:
                    raise
            time.sleep(POLL_SEC)

    def follow(self, submission_id: str, write: Callable[[str], object]) -> JobState:
        """Pass on what the job prints, from its beginning, until it is over; a connection that breaks is made again."""
        self.state(submission_id)
        num_written = 0
        while True:
            num_written = asyncio.run(self._tail(submission_id, write, num_written))
            state = self.wait(submission_id, timeout_sec=0.0)
            if state.is_over:
                write(self.logs(submission_id)[num_written:])
                return state
            time.sleep(POLL_SEC)

    async def _tail(self, submission_id: str, write: Callable[[str], object], skip: int) -> int:
        """Pass on all but the first `skip` characters; returns how many there were in all."""
        import aiohttp

        seen = 0
        try:
            async for text in self._client.tail_job_logs(submission_id):
                fresh = text[max(skip - seen, 0) :]
                seen += len(text)
                if fresh:
                    write(fresh)
        except (RuntimeError, OSError, aiohttp.ClientError):
            pass  # the caller asks for the job's state, and fails there if nobody answers any more
        return max(seen, skip)


def resolve_address(address: str | None, environ: Any) -> str:
    """The job server's URL.

    Raises:
        ConfigError: If it is none.
    """
    if address is None:
        candidates: Sequence[str] = [environ.get(name, "") for name in _ADDRESS_VARIABLES]
        address = next((one for one in candidates if one.startswith(("http://", "https://"))), DEFAULT_ADDRESS)
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url)
    try:
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_good = False
    if not is_good:
        raise ConfigError(f"--address {address} should be the cluster's job server, e.g. http://head:8265 (the dashboard's address)")
    return url.rstrip("/")


def require_version(found: str, *, where: str) -> None:
    """Compare a cluster's Ray with the versions that Esper is made for.

    Raises:
        ClusterError: If it is none of them.
    """
    wanted = ray_versions()
    if not wanted.contains(found, prereleases=True):
        raise ClusterError(f"{where} runs Ray {found}; Esper needs ray{wanted}")


def ray_versions() -> Any:
    """The versions of Ray that this distribution asks for."""
    requirements = (Requirement(text) for text in requires("esper-morph") or ())
    return next(requirement.specifier for requirement in requirements if requirement.name == "ray")


def _knock(url: str) -> bool:
    """Ask for a sign of life within a few seconds; returns whether the server wants a token.

    Raises:
        ClusterError: If nobody answers.
    """
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=ANSWER_SEC):
            return False
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ClusterError(f"no job server answers at {url}: {reason}; give --address http://HEAD:8265 of a running cluster") from error


def _state(job: Any) -> JobState:
    return JobState(
        submission_id=job.submission_id,
        status=str(job.status),
        is_over=job.status.is_terminal(),
        message=job.message or "",
        run_dir=(job.metadata or {}).get(RUN_DIR_KEY),
        started_at=_moment(job.start_time),
        ended_at=_moment(job.end_time),
    )


def _moment(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


@contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def _reported(what: str, address: str) -> Iterator[None]:
    """Turn what Ray's client raises into one line."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:  # requests' errors are OSErrors
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ClusterError(f"{what}: {address} says: {first}") from error
