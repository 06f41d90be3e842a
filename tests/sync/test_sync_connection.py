"""How a host is reached: noise, jumps, strange keys, what is missing there; and what each failure tells its user."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from far_machine import FarMachine, running
from near_machine import Home
from sealed_runs import publish, run_id, tree

from band.errors import ConfigError, RemoteError
from band.slurm.user_config import HostConfig
from band.sync import connection, remote
from band.sync.connection import HELPER, Connection, connect, is_place, parse_place, socket_folder
from band.sync.far_sweep import look
from band.sync.rsync import Transfer, check_rate, words
from band.sync.shell import far_command

PULL = ("pull", "far:maze")
RUN = {"sha256": "b" * 64, "size": 1, "outcome": "ok", "absent": []}


def test_banners_and_a_login_that_prints_do_no_harm(far: FarMachine, home: Home) -> None:
    there = publish(far.home / "maze", range(3))
    (far.folder / "banner").write_text("WELCOME TO FAR\n" * 50)
    noise = 'echo loud; printf "a\\0b\\nband-sync:00:"; echo to stderr >&2; echo "{}"\nexport PS1=x; PATH=$PATH:/none\n'
    (far.home / ".bashrc").write_text(noise)
    (far.home / ".bash_profile").write_text(noise)
    (far.home / ".bash_logout").write_text("echo bye\n")
    assert len(home.json_of_source(*PULL)["new"]) == 3
    assert tree(home.folder / "sweeps/maze/runs") == tree(there.runs)
    (home.folder / "file").write_bytes(b"x" * 300_000)
    home.configure("hosts: {far: {setup: ['echo set up', 'export LOADED=1']}}")
    assert "sent" in home.band_sync("push", "file", "far:x/")
    assert (far.home / "x/file").read_bytes() == b"x" * 300_000


def test_a_host_behind_another_is_reached_through_it(far: FarMachine, home: Home, tmp_path: Path) -> None:
    with running(FarMachine(tmp_path / "behind", home=far.home)) as behind:
        far.knows(behind, name="behind", through="far")
        publish(far.home / "maze", range(2))
        assert len(home.json_of_source("pull", "behind:maze")["new"]) == 2
        assert (far.logins, behind.logins) == (1, 1)
        home.band_sync("disconnect", "behind")


def test_a_host_whose_key_is_another_is_not_talked_to(far: FarMachine, home: Home) -> None:
    known = far.folder / "known_hosts"
    known.write_text(known.read_text().replace("AAAAC3NzaC1lZDI1NTE5AAAAI", "AAAAC3NzaC1lZDI1NTE5AAAAJ"))
    said = home.band_sync(*PULL, code=3)
    assert "cannot connect to far" in said and "host key" in said.lower()


def test_a_host_that_is_not_there_or_knows_no_key_of_ours_is_said(far: FarMachine, home: Home) -> None:
    (far.folder / "authorized_keys").write_text("")
    assert "Permission denied" in home.band_sync(*PULL, code=3)
    far.stop()
    assert "Connection refused" in home.band_sync(*PULL, code=3)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_host_that_takes_connections_and_says_nothing_is_given_up(
    moment: str, far: FarMachine, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"ServerAliveInterval=15", "ConnectTimeout=30"} <= set(connection.ALIVE)
    haste = [word.replace("=15", "=1").replace("=30", "=1") for word in connection.ALIVE]
    monkeypatch.setattr(connection, "ALIVE", haste)
    opened = connect("far") if moment == "after" else None
    home.band_sync("disconnect", "far")
    begun = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        far.port, port = mute.getsockname()[1], far.port
        far.write_client_config()
        far.port = port
        if opened is None:
            said = home.band_sync(*PULL, code=3)
            assert "cannot connect to far" in said and "timed out" in said
        else:
            with pytest.raises(RemoteError, match="broke"):
                opened.call("read", path="maze", start="")
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("command", ["python3", "rsync"])
def test_what_is_missing_there_is_named(command: str, far: FarMachine, home: Home) -> None:
    publish(far.home / "maze", range(1))
    far.hide(command)
    far.restart()
    said = home.band_sync(*PULL, code=3)
    assert f"far has no {command}" in said and "config.yaml" in said


def test_a_login_that_runs_no_commands_is_said(far: FarMachine, home: Home) -> None:
    (far.home / ".bashrc").write_text("echo This account is not available.; exit 0\n")
    said = home.band_sync(*PULL, code=3)
    assert "lets nobody run a command" in said and "not available" in said


def test_paths_that_are_not_there_are_said(far: FarMachine, home: Home) -> None:
    (far.home / "closed").mkdir()
    assert "is no sweep" in home.band_sync("pull", "far:closed", code=1)
    assert "fed from nowhere yet" in home.band_sync("pull", str(publish(home.folder / "own", [0]).path), code=1)
    assert "no sweep 'nothing'" in home.band_sync("pull", "nothing", code=1)


def test_a_connection_of_the_users_own_is_used_where_one_is_open(
    far: FarMachine, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(far.home / "maze", range(1))
    socket = tmp_path / "own"
    config = far.folder / "ssh_config"
    config.write_text(f"ControlPath {socket}\nRemoteCommand none\n" + config.read_text())
    ssh = str(far.folder / "client/ssh")
    subprocess.run([ssh, "-M", "-f", "-N", "far"], check=True, stderr=subprocess.DEVNULL)
    try:
        home.band_sync(*PULL)
        assert far.logins == 1 and not list((tmp_path / "run/band-ssh").glob("[0-9a-f]*"))
    finally:
        subprocess.run([ssh, "-O", "exit", "far"], check=True, stderr=subprocess.DEVNULL)


def test_what_ssh_has_to_ask_it_asks_once(
    far: FarMachine, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "second factor", "-f", far.folder / "key"], check=True)
    asked = tmp_path / "asked"
    program = tmp_path / "askpass"
    program.write_text(f"#!/bin/sh\necho >>{asked}\necho second factor\n")
    program.chmod(0o755)
    for name, value in {"SSH_ASKPASS": str(program), "SSH_ASKPASS_REQUIRE": "force", "SSH_AUTH_SOCK": ""}.items():
        monkeypatch.setenv(name, value)
    publish(far.home / "maze", range(2))
    for _ in range(2):
        home.band_sync(*PULL)
    home.band_sync("pull", "maze", "--check", "--what", "all")
    assert asked.read_text() == "\n" and far.logins == 1


def test_an_unused_connection_closes_by_itself(far: FarMachine, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "KEEP_S", 1)
    connect("far")
    deadline = time.monotonic() + 10
    while list(socket_folder().glob("[0-9a-f]*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sockets_lie_in_a_folder_of_this_user_alone_with_a_short_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "run"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    folder = socket_folder() if len(str(runtime)) < 30 else None
    assert folder is None or (folder == runtime / "band-ssh" and folder.stat().st_mode & 0o777 == 0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("long" * 20)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ("long" * 20)))
    assert len(str(socket_folder())) < 40
    open_to_all = tmp_path / "band-ssh"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert socket_folder() != open_to_all


@pytest.mark.parametrize(
    "text", ["-oProxyCommand=touch x:p", "a b:p", "$(x):p", "host:", ":p", "host", "a;b:p", "a@-b:p", "h\n:p", "h:p\0"]
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PATH"):
        parse_place(text)
    assert not is_place(text) or text in ("host:", "h:p\0")


@pytest.mark.parametrize("path", ["a b", "-x", "$(touch pwned)", "a'b\"c", "new\nline", "*", "~/x", "../y"])
def test_no_path_becomes_a_word_of_a_shell(path: str, tmp_path: Path) -> None:
    transfer = Transfer(source=path, target=str(tmp_path), names=("--delete",))
    made = words(transfer, far_shell=["/a python/bin", "-I", "far"], bwlimit=check_rate("1.5M"))
    assert made[made.index("--") + 1 :] == ["far:./", f"{tmp_path}/"] and "--bwlimit=1.5M" in made
    assert '--rsh="/a python/bin" -I' in made and "--delete" not in made
    inside = tmp_path / path.replace("/", "_")
    inside.mkdir()
    show = ["sh", "-c", 'printf "<%s> %s" "$1" "$PWD"', "sh", path]
    command = far_command(show, setup="", folder=str(inside), mark="M")
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.stdout == f"M<{path}> {inside}" and not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("rate", ["fast", "1M; rm", "-1", "1 M"])
def test_what_is_no_rate_is_refused(rate: str) -> None:
    with pytest.raises(ConfigError, match="--bwlimit"):
        check_rate(rate)


def test_the_helper_is_written_for_old_pythons_and_needs_nothing_but_the_standard_library() -> None:
    tree_ = ast.parse(HELPER.read_text(), feature_version=(3, 6))
    imported = {alias.name for node in ast.walk(tree_) if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= {"errno", "hashlib", "json", "os", "shutil", "stat", "subprocess", "sys"}
    assert not any(isinstance(node, ast.ImportFrom) and node.module != "typing" for node in ast.walk(tree_))


def test_the_helper_lets_no_name_leave_its_folder(tmp_path: Path) -> None:
    entry = {"name": "../x", "size": 1, "sha256": "a" * 64}
    with pytest.raises(remote.Refused, match="leaves its folder"):
        remote.offer_files({"folder": str(tmp_path), "files": [entry]})


def test_a_pull_reads_no_password_and_writes_none(far: FarMachine, home: Home) -> None:
    publish(far.home / "maze", range(1))
    home.band_sync(*PULL)
    text = b"".join(tree(home.folder / "sweeps/maze/sync").values())
    assert b"PRIVATE" not in text and b"IdentityFile" not in text
    assert not {"SSH_ASKPASS", "PASSWORD"} & set(os.environ) and run_id(0).encode() in text


@pytest.mark.parametrize(
    "answer",
    [
        {"runs": {"../x": {"sha256": "a" * 64}}},
        {
            "runs": {
                "a": {"sha256": "b" * 64, "size": 1, "outcome": "ok", "absent": [], "files": {"../x": [1, "c" * 64]}}
            }
        },
        {"runs": {"a": {"sha256": "../../x"}}},
        {"logs": [["../x", 1], ["a/b", 1], ["", 1], ["..", 1], ["nul\0", 1], ["\ud800", 1]]},
        {"tasks": {"../x": ["a"], "a/b": ["a"]}},
        {"path": "relative"},
        {"path": "/a\0b"},
    ],
)
def test_a_far_end_that_lies_gets_no_name_past_the_listing(
    answer: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {
        "path": "/p",
        "manifest": None,
        "sweep_yaml": None,
        "runs": {},
        "bad": {},
        "logs": [],
        "tasks": {},
        **answer,
    }
    liar = Connection(host="far", ssh=(), config=HostConfig())
    monkeypatch.setattr(Connection, "call", lambda self, operation, **request: whole)
    try:
        found = look(liar, "p", known={}, manifest="", has_logs=True)
    except RemoteError as error:
        assert "no listing" in str(error)
    else:
        assert not found.runs and not found.logs and not found.tasks
