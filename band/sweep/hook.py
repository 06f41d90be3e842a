"""Tells whoever the user's configuration names that a sweep is over: a command, a web address, a mailbox; once."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from band.files import canonical_json, create_exclusive
from band.run_dir import SweepDir
from band.sweep.ledger import read_intents
from band.sweep.policy import failure_class
from band.sweep.status import Survey

MARKER = "told.json"
TIMEOUT_S = 60.0  # of a command, and of a mailer
WEB_TIMEOUT_S = 20.0
WAYS = ("hook", "webhook", "mail")  # keys of the user's configuration
NOT_OVER = ("running", "interrupted", "queued", "held", "planned", "submit_unknown")
_ADDRESS = re.compile(r"[A-Za-z0-9][^\s@<>,;:\"()\[\]\\]*(?:@[A-Za-z0-9.-]+)?")


def is_over(survey: Survey) -> bool:
    """Return whether nobody works on the sweep any more, or is to."""
    return not survey.in_state(*NOT_OVER)


def summary(survey: Survey) -> dict[str, Any]:
    """Return what became of a sweep, as JSON values."""
    statuses = survey.runs.values()
    outcomes = Counter(status.outcome for status in statuses if status.state == "published")
    failures = Counter(failure_class(status.error) for status in statuses if status.state == "failed")
    return {
        "sweep": survey.manifest.name,
        "is_complete": survey.is_complete,
        "states": survey.counts(),
        "outcomes": dict(sorted(outcomes.items())),
        "failures": dict(sorted(failures.items())),
    }


def tell_once(sweep: SweepDir, survey: Survey, *, settings: Mapping[str, Any]) -> list[str]:
    """Tell that the sweep is over, unless that was told since the last request to submit.

    The mark is made before anybody is told: a process killed in between leaves it untold, never told twice.

    Returns:
        What went wrong, a line each; nothing here is worth a failure of who calls.
    """
    ways = [way for way in WAYS if settings.get(way)]
    requests = [intent.number for intent in read_intents(sweep) if intent.action == "submit"]
    if not ways or not requests:
        return []
    content = summary(survey)
    mark = {"t": time.time(), "host": socket.gethostname(), "pid": os.getpid(), **content}
    try:
        if not create_exclusive(sweep.submission(requests[-1]) / MARKER, canonical_json(mark) + b"\n"):
            return []
    except OSError as error:
        return [f"nobody was told that the sweep is over: {error}"]
    problems = []
    for way in ways:
        try:
            _TELLERS[way](str(settings[way]), {**content, "folder": str(sweep.path)})
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            problems.append(f"{way}: {error}")
    return problems


def _run(command: str, content: Mapping[str, Any]) -> None:
    _feed(shlex.split(command), canonical_json(content) + b"\n")


def _post(url: str, content: Mapping[str, Any]) -> None:
    from urllib.request import Request, urlopen

    if not url.startswith(("https://", "http://")):
        raise ValueError(f"webhook must be an address that begins with https://, got {url!r}")
    request = Request(url, data=canonical_json(content), headers={"Content-Type": "application/json"})
    with urlopen(request, timeout=WEB_TIMEOUT_S):
        pass


def _mail(address: str, content: Mapping[str, Any]) -> None:
    from email.message import EmailMessage

    if not _ADDRESS.fullmatch(address):
        raise ValueError(f"mail must be one address, got {address!r}")
    states = ", ".join(f"{count} {state}" for state, count in content["states"].items())
    subject = f"sweep {content['sweep']}: {states}"
    lines = [subject, *(f"failed, {kind}: {count}" for kind, count in content["failures"].items())]
    lines += ["", f"band-sweep status {content['folder']}", ""]
    sendmail = shutil.which("sendmail") or shutil.which("sendmail", path="/usr/sbin:/usr/lib")
    if sendmail:
        message = EmailMessage()
        message["To"], message["Subject"] = address, subject
        message.set_content("\n".join(lines))
        _feed([sendmail, "-i", "-t"], message.as_bytes())
    elif mail := shutil.which("mail"):
        _feed([mail, "-s", subject, "--", address], "\n".join(lines).encode())
    else:
        raise OSError("neither sendmail nor mail is installed here")


def _feed(command: list[str], content: bytes) -> None:
    """Run a command that reads `content`.

    Raises:
        OSError: it cannot be started, or ends with another code than 0.
        subprocess.TimeoutExpired: it does not end in time.
    """
    done = subprocess.run(command, input=content, capture_output=True, timeout=TIMEOUT_S)
    if done.returncode != 0:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()[-300:]
        raise OSError(f"{shlex.join(command)} ended with code {done.returncode}: {words}")


_TELLERS = {"hook": _run, "webhook": _post, "mail": _mail}
