"""One ssh connection a host, kept between commands, so that a second factor is asked for once; what runs through it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from band import owners
from band.errors import BandError, ConfigError, RemoteError
from band.slurm.user_config import HostConfig, read_user_config
from band.sync.shell import NO_MARK, SETTINGS

KEEP_S = 600  # that an unused connection stays open
MOST_SOCKET_BYTES = 100  # of a socket's path, the ending that ssh adds while it makes one included
SOCKET_BYTES = 1 + 40 + 17
SHELL = Path(__file__).with_name("shell.py")
HELPER = Path(__file__).with_name("remote.py")
# All that the far end is told stands on its standard input, so this line is the same for every request.
BOOT = "import sys;i=sys.stdin.buffer;exec(compile(i.read(int(i.readline())),'band-sync','exec'))"
# Nothing of the user's ssh configuration that makes sense for a person at a prompt alone.
QUIET = ("-T", "-a", "-x", "-o", "RemoteCommand=none", "-o", "ClearAllForwardings=yes")
# A host that falls silent is given up after a minute, one that never says anything after half of that: without the last
# of these ssh would wait for ever. They stand in every command, for one that finds no open connection makes its own.
ALIVE = ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4", "-o", "ConnectTimeout=30")
_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._+-]*@)?[A-Za-z0-9_][A-Za-z0-9._-]*")
NOT_FOUND = 127
_CONSEQUENCES = ("rsync error:", "rsync: connection unexpectedly closed")
CONNECTION = 255
MOST_LINE_BYTES = 1 << 16
Show = Callable[[str, bool], None]


@dataclass(frozen=True)
class Place:
    """A path on another machine."""

    host: str  # as `~/.ssh/config` has it; it cannot be taken for an option
    path: str

    def __str__(self) -> str:
        return f"{self.host}:{self.path}"


def is_place(text: str) -> bool:
    """Return whether `text` has the form HOST:PATH."""
    return bool(_HOST.fullmatch(text.partition(":")[0])) and ":" in text


def parse_place(text: str) -> Place:
    """Return the place that HOST:PATH names.

    Raises:
        ConfigError: it is not of that form.
    """
    host, _, path = text.partition(":")
    if not is_place(text) or not path or "\0" in path:
        raise ConfigError(
            f"{text!r} must be HOST:PATH, HOST as in `ssh HOST` (letters, digits, . _ - and USER@), "
            "such as informatics:experiments/sweeps/maze"
        )
    return Place(host, path)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """An open connection; every command through it starts without asking anything."""

    host: str
    ssh: tuple[str, ...]  # words that run ssh through it, the host's name last
    config: HostConfig

    def shell(self) -> list[str]:
        """Return the words that run a command at the far end, but for the command."""
        return [sys.executable, "-I", "-S", str(SHELL), "far"]

    def environment(self, *, folder: str = "", life: int = -1) -> dict[str, str]:
        """Return the environment that those words need.

        Args:
            folder: where the far command runs, "" for wherever a login starts.
            life: a file descriptor; once its other end is closed, the far command is ended.
        """
        setup = "".join(f"{line}\n" for line in self.config.setup)
        settings = {"ssh": self.ssh, "setup": setup, "folder": folder, "life": life}
        return {**os.environ, SETTINGS: json.dumps(settings), "LC_ALL": "C"}

    def call(self, operation: str, **request: Any) -> dict[str, Any]:
        """Return what the helper at the far end answers; it is band/sync/remote.py, sent along and never stored.

        Raises:
            BandError: it says why it could not; in its words.
            RemoteError: the connection broke, or there is no Python.
        """
        with tempfile.TemporaryFile() as errors:
            done = subprocess.run(
                [*self.shell(), *self.python()],
                input=helper_input(operation, request),
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self.environment(),
            )
            said = tail(errors)
        if done.returncode:
            raise self.failure(done.returncode, said, what="python3")
        return read_answer(done.stdout, host=self.host)

    def band(self, *, path: str, words: Sequence[str], show: Show, code: str = "", needs: Sequence[str] = ()) -> int:
        """Run `band-sweep` there on a sweep, have shown what it prints, and return its exit code.

        Args:
            show: called with each line that it prints, its end included, and whether it is an error's; it must let
                nothing pass that could command the terminal, for another machine may print anything.
            path: the sweep's folder there.
            words: the command and its options; the sweep's path follows the command.
            code: digest of the copy of the code in the sweep's folder that is to run; "": what is found there.
            needs: packages that the interpreter there must have.

        Raises:
            RemoteError: the connection broke.
        """
        command, request = self._band(path=path, words=words, code=code, needs=needs)
        sys.stdout.flush()
        pipe = subprocess.PIPE
        with tempfile.TemporaryFile() as asked:
            asked.write(request)
            asked.seek(0)
            with (
                subprocess.Popen(command, stdin=asked, stdout=pipe, stderr=pipe, env=self.environment()) as process,
                ThreadPoolExecutor() as pool,  # left first: both streams are read to their ends before they are closed
            ):
                assert process.stdout is not None and process.stderr is not None
                pool.submit(_show_lines, process.stdout, show, is_error=False)
                pool.submit(_show_lines, process.stderr, show, is_error=True)
        return self._ended(process.returncode)

    def band_says(self, *, path: str, words: Sequence[str]) -> tuple[int, Any]:
        """Run `band-sweep` there on a sweep, and return its exit code and the JSON that it prints.

        Raises:
            RemoteError: the connection broke, or it printed something else.
        """
        command, request = self._band(path=path, words=words, code="", needs=())
        done = subprocess.run(command, input=request, stdout=subprocess.PIPE, env=self.environment())
        code = self._ended(done.returncode)
        try:
            return code, json.loads(done.stdout)
        except (ValueError, RecursionError):
            raise RemoteError(f"band-sweep {words[0]} at {self.host} ended with {code} and without JSON") from None

    def _band(self, *, path: str, words: Sequence[str], code: str, needs: Sequence[str]) -> tuple[list[str], bytes]:
        """Return the command that runs `band-sweep` there, and what it reads."""
        request = {"path": path, "start": self.config.path, "python": self.config.python, "needs": list(needs)}
        return [*self.shell(), *self.python()], helper_input("band", {**request, "words": list(words), "code": code})

    def _ended(self, code: int) -> int:
        if code in (CONNECTION, NO_MARK, NOT_FOUND):
            raise self.failure(code, "", what="python3")
        return code

    def python(self) -> list[str]:
        """Return the words that start the helper at the far end."""
        return ["python3", "-I", "-c", BOOT]

    def failure(self, code: int, said: str, *, what: str) -> RemoteError:
        """Return the error for a far command that ended with `code` and said `said`."""
        said = f": {said}" if said else ""
        if code == NOT_FOUND:
            return RemoteError(
                f"{self.host} has no {what}{said}; install it there, or say in {read_user_config().path} how it is "
                f"found: hosts: {{{self.host}: {{setup: [module load …]}}}}"
            )
        if code == NO_MARK:
            return RemoteError(
                f"{self.host} lets nobody run a command{said}; `ssh {self.host} true` shows what it does"
            )
        if code == CONNECTION:
            return RemoteError(f"the connection to {self.host} broke{said}; give the same command again")
        return RemoteError(f"{what} at {self.host} ended with {code}{said}")


def _show_lines(stream: IO[bytes], show: Show, *, is_error: bool) -> None:
    while line := stream.readline(MOST_LINE_BYTES):
        show(line.decode("utf-8", "replace"), is_error)


def helper_input(operation: str, request: dict[str, Any]) -> bytes:
    """Return what the constant line at the far end reads: the length of the helper, the helper, and the request."""
    helper = HELPER.read_bytes()
    return b"%d\n%s%s" % (len(helper), helper, json.dumps({"op": operation, **request}).encode())


def read_answer(data: bytes, *, host: str) -> dict[str, Any]:
    """Return the answer of the helper.

    Raises:
        BandError: the helper could not do what was asked.
        RemoteError: it is no answer.
    """
    try:
        answer = json.loads(data)
        if not isinstance(answer, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError) as error:
        raise RemoteError(f"{host} answered what is no answer ({error}); give the same command again") from None
    if "error" in answer:
        raise BandError(f"{host}: {answer['error']}")
    return answer


def tail(file: IO[bytes]) -> str:
    """Return the end of what a command said on stderr, on one line."""
    file.seek(0)
    lines = [line.strip() for line in file.read()[-4000:].decode("utf-8", "replace").splitlines() if line.strip()]
    causes = [line for line in lines if not line.startswith(_CONSEQUENCES)]
    return "; ".join((causes or lines)[-3:])


def connect(host: str) -> Connection:
    """Return a connection to a host: the user's own where one is open, else ours, opened where it is not.

    ssh asks for what it needs (password, second factor, an unknown host's key) at the terminal.

    Raises:
        ConfigError: that is no host's name, or no folder can hold the connection's socket.
        RemoteError: ssh is missing, or cannot connect; in ssh's words.
    """
    if not _HOST.fullmatch(host):
        raise ConfigError(f"{host!r} is no name of a host")
    ssh = shutil.which("ssh")
    if ssh is None or shutil.which("rsync") is None:
        raise RemoteError("ssh and rsync are needed on this machine: sudo apt-get install openssh-client rsync")
    config = read_user_config().hosts.get(host, HostConfig())
    own = [ssh, *QUIET]
    if not _is_open(own, host=host):
        folder = socket_folder()
        own += ["-o", f"ControlPath={folder}/%C"]
        with _alone(folder):
            if not _is_open(own, host=host):
                _open(own, host=host)
    words = (*own, *ALIVE, "-o", "ControlMaster=no", "-o", "BatchMode=yes", "--", host)
    return Connection(host=host, ssh=words, config=config)


def disconnect(host: str) -> bool:
    """Close the connection that band keeps to a host; return whether there was one."""
    path = ("-o", f"ControlPath={socket_folder()}/%C")
    return _control([shutil.which("ssh") or "ssh", *QUIET, *path], "exit", host=host)


def _is_open(words: Sequence[str], *, host: str) -> bool:
    return _control(words, "check", host=host)


def _control(words: Sequence[str], order: str, *, host: str) -> bool:
    done = subprocess.run([*words, "-O", order, "--", host], stdin=subprocess.DEVNULL, capture_output=True)
    return done.returncode == 0


def _open(words: Sequence[str], *, host: str) -> None:
    master = ("-f", "-N", "-o", "ControlMaster=yes", "-o", f"ControlPersist={KEEP_S}")
    with tempfile.TemporaryFile() as errors:
        # At a terminal ssh speaks for itself: what a second factor asks may stand there. A pipe would never end, for
        # the connection stays in the background and holds it.
        stderr = None if sys.stderr.isatty() else errors
        command = [*words, *ALIVE, *master, "--", host]
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr).returncode
        if code:
            said = tail(errors) or "see above"
            raise RemoteError(f"ssh cannot connect to {host} ({said}); once `ssh {host}` works, this does")


def socket_folder() -> Path:
    """Return the folder, this user's alone, where the sockets of connections are.

    Raises:
        ConfigError: none can be had with a path short enough for a socket.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    tried = [*([f"{runtime}/band-ssh"] if runtime else []), f"{cache}/band/ssh", f"/tmp/band-ssh-{os.getuid()}"]
    for path in map(Path, tried):
        if len(os.fsencode(path)) + SOCKET_BYTES <= MOST_SOCKET_BYTES and "%" not in str(path) and _is_private(path):
            return path
    raise ConfigError(
        f"no private folder for ssh's sockets: tried {', '.join(tried)}; set XDG_RUNTIME_DIR to a short one"
    )


def _is_private(path: Path) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        return path.is_dir() and not owners.problem(path, forbidden=owners.OPEN_TO_OTHERS)
    except OSError:
        return False


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time open connections: a second master of one name would never end."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
