"""`esper submit`: hand a run to a cluster's job server; look at it, read its output, stop it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from esper.cli.arguments import overrides
from esper.cli.exit_codes import FAILED, INTERRUPTED, OK
from esper.distributed.job_server import JobServer, JobState
from esper.distributed.submit import SubmitOptions, check, interpreter, make_request
from esper.leyline.load import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

STOP_SEC = 30.0
"""Longest wait for a job that was asked to stop."""


def run_submit_command(options: argparse.Namespace) -> int:
    """Dispatch on `status`, `logs` and `stop`; anything else is a run to submit.

    Raises:
        ConfigError: If the words make no sense, or a setting is wrong.
        ClusterError: If the cluster does not answer or refuses.
    """
    actions: dict[str, Callable[[argparse.Namespace, list[str]], int]] = {"status": _status, "logs": _logs, "stop": _stop}
    words = [word for word in options.settings if "=" not in word]
    if not words:
        return _submit(options)
    if words[0] not in actions:
        raise ConfigError(f"esper submit {words[0]}: expected key=value settings, or one of: {', '.join(actions)}")
    if len(words) != len(overrides(options)):
        raise ConfigError(f"esper submit {words[0]} takes the submission id of a job and no settings")
    return actions[words[0]](options, words[1:])


def _submit(options: argparse.Namespace) -> int:
    if options.run_dir is None:
        raise ConfigError("esper submit needs --run-dir DIR, an absolute folder on a disk that the whole cluster sees")
    asked = SubmitOptions(
        run_dir=options.run_dir,
        project=options.project,
        config=options.config,
        settings=tuple(overrides(options)),
        env=tuple(options.env),
        python=options.python,
        is_local=options.local,
        entrypoint_cpus=options.entrypoint_cpus,
    )
    check(asked)
    server = JobServer.connect(options.address)
    python = interpreter(asked.python, executable=sys.executable, is_same_machine=server.is_same_machine)
    request = make_request(asked, python=python, earlier=[state.submission_id for state in server.jobs()])
    for note in request.notes:
        print(f"note        {note}")
    submission_id = server.submit(request)
    print(f"job         {submission_id}\ncluster     {server.address}\nrun         {asked.run_dir}", flush=True)
    if not (options.follow or options.wait):
        print(f"look at it with: esper submit status {submission_id}")
        return OK
    return _attend(server, submission_id, follow=options.follow)


def _attend(server: JobServer, submission_id: str, *, follow: bool) -> int:
    try:
        state = server.follow(submission_id, _write) if follow else server.wait(submission_id)
    except KeyboardInterrupt:
        print(f"\nthe job goes on; stop it with: esper submit stop {submission_id}", file=sys.stderr)
        return INTERRUPTED
    print(_render(state))
    return {"SUCCEEDED": OK, "STOPPED": INTERRUPTED}.get(state.status, FAILED)


def _status(options: argparse.Namespace, words: list[str]) -> int:
    server = JobServer.connect(options.address)
    states = [server.state(word) for word in words] or server.jobs()
    for state in states:
        print(_render(state))
    if not states:
        print(f"{server.address} knows no job of Esper's")
    return OK


def _logs(options: argparse.Namespace, words: list[str]) -> int:
    submission_id = _only("logs", words)
    server = JobServer.connect(options.address)
    if options.follow:
        return _attend(server, submission_id, follow=True)
    _write(server.logs(submission_id))
    return OK


def _stop(options: argparse.Namespace, words: list[str]) -> int:
    submission_id = _only("stop", words)
    server = JobServer.connect(options.address)
    state = server.state(submission_id)
    if not state.is_over:
        server.stop(submission_id)
        state = server.wait(submission_id, timeout_sec=STOP_SEC)
    print(_render(state))
    if not state.is_over:
        print(f"it has not ended within {STOP_SEC:g} s", file=sys.stderr)
        return FAILED
    print(f"every finished round is saved in {state.run_dir}; give the same esper submit again to go on")
    return OK


def _only(action: str, words: list[str]) -> str:
    if len(words) != 1:
        raise ConfigError(f"esper submit {action} takes one submission id, e.g. esper submit {action} esper-first-1")
    return words[0]


def _render(state: JobState) -> str:
    times = [f"{moment:%Y-%m-%d %H:%M:%S}Z" if moment else "-" for moment in (state.started_at, state.ended_at)]
    message = "" if state.status == "SUCCEEDED" or not state.message else f"  {_last_line(state.message)}"
    return f"{state.submission_id:<28} {state.status:<9} {times[0]}  {times[1]}  {state.run_dir}{message}"


def _last_line(message: str) -> str:
    return next((line.strip() for line in reversed(message.splitlines()) if line.strip()), "")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
