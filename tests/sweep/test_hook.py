"""A command, a web address and a mailbox are told once that a sweep is over, whatever goes wrong."""

from __future__ import annotations

import email
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from local_sweep import make_sweep
from stepping import DEATHS, Hook, run_until_killed

from band.run_dir import EventWriter, SweepDir, seal
from band.sweep.closing import finish
from band.sweep.hook import is_over, tell_once
from band.sweep.ledger import new_task, record
from band.sweep.local import Claims
from band.sweep.manifest import read_manifest
from band.sweep.status import Survey, take_survey


@pytest.fixture
def sweep(tmp_path: Path) -> SweepDir:
    """Return a sweep that is over: one run published, one failed."""
    sweep = make_sweep(tmp_path, {"a": {}, "b": {}}).sweep
    task = new_task(sweep)
    record(sweep, "submit", runs=["a", "b"], tasks={task: ["a", "b"]})
    events = EventWriter(sweep.event_file(task, attempt="one"))
    events.write("failed", runs=["b"], error="OutOfMemory", message="no")
    events.write("ended", code=1)
    sweep.run("a").mkdir(parents=True)
    seal(sweep.run("a"), result={"schema": 1, "run_id": "a", "training": {"outcome": "ok"}})
    return sweep


def survey(sweep: SweepDir) -> Survey:
    return take_survey(sweep, read_manifest(sweep.path), scheduler=Claims(sweep))


def command(tmp_path: Path) -> str:
    return f'{sys.executable} -c \'import sys; open("{tmp_path}/told", "a").write(sys.stdin.read())\''


def told(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "told"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_command_gets_the_counts_once_for_each_submission(sweep: SweepDir, tmp_path: Path) -> None:
    settings = {"hook": command(tmp_path)}
    assert is_over(survey(sweep))
    for _ in range(3):
        assert tell_once(sweep, survey(sweep), settings=settings) == []
    (content,) = told(tmp_path)
    assert content == {
        "sweep": "demo",
        "folder": str(sweep.path),
        "is_complete": False,
        "states": {"published": 1, "failed": 1},
        "outcomes": {"ok": 1},
        "failures": {"out_of_memory": 1},
    }
    record(sweep, "submit", runs=["b"], tasks={"0001": ["a", "b"]})
    tell_once(sweep, survey(sweep), settings=settings)
    assert len(told(tmp_path)) == 2


def test_copies_of_checkpoints_go_with_the_last_run_of_their_task_once_the_sweep_is_over(sweep: SweepDir) -> None:
    task = new_task(sweep)
    record(sweep, "submit", runs=["a"], tasks={task: ["a"]})
    kept, spare = (sweep.task(name).path / "population.0.pt" for name in ("0001", task))
    for copy in (kept, spare):
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"a checkpoint")
    finish(sweep, survey(sweep))
    assert kept.exists() and not spare.exists(), "run b of the first task failed, and may go on from its checkpoint"


def test_a_sweep_with_a_run_to_come_is_not_over(sweep: SweepDir) -> None:
    events = EventWriter(sweep.event_file("0001", attempt="two"))
    events.write("started", runs=["b"], step=0)
    assert not is_over(survey(sweep))


@pytest.mark.parametrize("death", DEATHS)
def test_nobody_is_told_twice_when_the_process_dies(sweep: SweepDir, tmp_path: Path, death: Hook) -> None:
    seen, settings, number = survey(sweep), {"hook": command(tmp_path)}, 0
    while run_until_killed(lambda: tell_once(sweep, seen, settings=settings), number=number, death=death):
        number += 1
    tell_once(sweep, seen, settings=settings)
    assert number > 0
    assert len(told(tmp_path)) <= 1


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"hook": "/no/such/program --flag"}, "hook: .*No such file"),
        ({"hook": "false"}, "hook: false ended with code 1"),
        ({"hook": "'unfinished"}, "hook: No closing quotation"),
        ({"webhook": "file:///etc/passwd"}, "webhook must be an address"),
        ({"webhook": "http://127.0.0.1:9/"}, "webhook: .*refused"),
        ({"mail": "a@b.c\nBcc: x@y.z"}, "mail must be one address"),
        ({"mail": "-oQ@x.y"}, "mail must be one address"),
    ],
)
def test_what_goes_wrong_is_said_and_does_no_harm(
    sweep: SweepDir, settings: dict[str, str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    (said,) = tell_once(sweep, survey(sweep), settings=settings)
    assert re.search(problem, said)


@pytest.fixture
def server() -> Iterator[tuple[str, list[bytes]]]:
    """Return the address of a web server, and what was posted there."""
    posted: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    web = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}/hook", posted
    web.shutdown()
    web.server_close()


def test_a_web_address_gets_the_counts(sweep: SweepDir, server: tuple[str, list[bytes]]) -> None:
    address, posted = server
    assert tell_once(sweep, survey(sweep), settings={"webhook": address}) == []
    (content,) = posted
    assert json.loads(content)["states"] == {"published": 1, "failed": 1}


def test_a_mailbox_gets_a_letter(sweep: SweepDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mailer = tmp_path / "bin" / "sendmail"
    mailer.parent.mkdir()
    mailer.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments; cat > {tmp_path}/letter\n')
    mailer.chmod(0o755)
    monkeypatch.setenv("PATH", f"{mailer.parent}{os.pathsep}{os.environ['PATH']}")
    assert tell_once(sweep, survey(sweep), settings={"mail": "jane.doe@example.org"}) == []
    letter = email.message_from_string((tmp_path / "letter").read_text())
    assert letter["To"] == "jane.doe@example.org"
    assert letter["Subject"] == "sweep demo: 1 published, 1 failed"
    assert "failed, out_of_memory: 1" in letter.get_payload()
    assert (tmp_path / "arguments").read_text().split() == ["-i", "-t"]
