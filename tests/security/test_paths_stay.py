"""No name that a file or another machine gives leads out of its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sealed_runs import publish

from band.errors import BandError, RemoteError, SweepError
from band.node.job import read_task
from band.run_dir import SweepDir, manifest_digests
from band.slurm.user_config import HostConfig
from band.sweep.journal import read_journal
from band.sweep.ledger import read_intents
from band.sweep.manifest import read_manifest
from band.sync.far_sweep import look
from band.sync.sources import Source, read_sources

OUT = ("../x", "/etc/passwd", "..", "a/b", ".hidden", "-rf", "a\0b", "a\nb", "", "x" * 300, "é", "\ud800", 7, None)


@pytest.fixture
def sweep(tmp_path: Path) -> SweepDir:
    return publish(tmp_path / "maze", [1])


def _change(path: Path, line: int, **values: Any) -> None:
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    lines[line].update(values)
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")


@pytest.mark.parametrize("name", OUT)
def test_a_run_of_a_manifest_stays_in_runs(sweep: SweepDir, name: object) -> None:
    _change(sweep.manifest, 1, id=name)
    with pytest.raises(SweepError, match="jsonl:2"):
        read_manifest(sweep.path)


@pytest.mark.parametrize("name", ["../x", "/etc", "..", ".", "a/b", "a\0b", "", 7, None])
def test_a_sweep_is_named_by_a_name(sweep: SweepDir, name: object) -> None:
    _change(sweep.manifest, 0, name=name)
    with pytest.raises(SweepError, match="jsonl:1"):
        read_manifest(sweep.path)


@pytest.mark.parametrize("name", [name for name in OUT if name is not None])
def test_files_of_a_run_stay_in_its_folder(name: object) -> None:
    manifest = {name: {"sha256": "a"}} if isinstance(name, str) else name
    with pytest.raises(BandError, match="damaged"):
        manifest_digests({"manifest": manifest, "run_id": "r"})


@pytest.mark.parametrize("name", [name for name in OUT if isinstance(name, str)])
def test_tasks_of_a_request_and_of_a_journal_stay_in_tasks(sweep: SweepDir, name: str) -> None:
    folder = sweep.submission("0001")
    folder.mkdir(parents=True)
    values = {"schema": 1, "action": "submit", "t": 1, "scheduler": "slurm", "runs": [], "tasks": {name: []}}
    (folder / "intent.json").write_text(json.dumps({**values, "failures": {}, "options": {}}))
    with pytest.raises(SweepError):
        read_intents(sweep)
    for key in ("tasks", "script"):
        line = {"t": 1, "array": 1, "step": "intent", "token": "t", "tasks": ["0001"], "script": "a.sh"}
        line[key] = [name] if key == "tasks" else name
        (folder / "journal.jsonl").write_text(json.dumps(line) + "\n")
        with pytest.raises(SweepError):
            read_journal(sweep, "0001")


@pytest.mark.parametrize("name", OUT)
def test_a_task_file_names_runs_by_names(sweep: SweepDir, name: object) -> None:
    path = sweep.tasks / "0001/task.json"
    path.parent.mkdir(parents=True)
    dataset = {"path": "/x", "digest": "d", "file_digest": "d", "size_bytes": 1}
    path.write_text(json.dumps({"schema": 1, "task": "0001", "runs": [{"id": name}], "dataset": dataset}))
    with pytest.raises(BandError):
        read_task(path)


class Far:
    """A machine that answers as it is told."""

    host, config = "far", HostConfig()

    def __init__(self, **answer: Any) -> None:
        run = {"sha256": "a" * 64, "size": 1, "outcome": "ok", "files": {}, "absent": []}
        listing = {"path": "/x", "manifest": None, "sweep_yaml": None, "runs": {"r": run}, "bad": {}}
        listing |= {"logs": [], "tasks": {}}
        self.answer = {**listing, **answer}

    def call(self, operation: str, **request: Any) -> dict[str, Any]:
        return self.answer


def listing(far: Far) -> Any:
    return look(far, "x", known={}, manifest="", has_logs=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in OUT if isinstance(name, str)])
def test_runs_files_and_logs_of_another_machine_stay_in_their_folders(name: str) -> None:
    run = {"sha256": "a" * 64, "size": 1, "outcome": "ok", "files": {}, "absent": []}
    found = listing(Far(runs={name: run, "r": {**run, "files": {name: [1, "b" * 64]}}}, logs=[[name, 1]]))
    assert not found.runs and set(found.bad) == {name, "r"}
    assert all("/" not in log and log not in ("", ".", "..") for log in found.logs)


ANSWERS: tuple[dict[str, Any], ...] = (
    *({"bad": None}, {"bad": "x"}, {"runs": []}, {"path": "x"}, {"path": 7}, {"path": "/a\0b"}, {"manifest": 7}),
    *({"logs": [["a", 1e999]]}, {"logs": 7}, {"sweep_yaml": "\ud800"}, {"tasks": 7}, {"tasks": {"0001": 7}}),
)


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_an_answer_of_another_form_is_none(answer: dict[str, Any]) -> None:
    with pytest.raises(RemoteError, match="no listing"):
        listing(Far(**answer))


def test_what_feeds_a_sweep_has_a_folder_in_it(sweep: SweepDir) -> None:
    sweep.sync.mkdir()
    entries = [{"host": "../../x", "path": "/p"}, {"host": "-oProxyCommand=x", "path": "\ud800"}]
    (sweep.sync / "sources.json").write_text(json.dumps({"schema": 1, "sources": entries}))
    folders = [source.folder for source in read_sources(sweep)]
    assert len(folders) == 2 and all(folder.parent == sweep.sync and folder.name[0].isalnum() for folder in folders)
    assert isinstance(read_sources(sweep)[0], Source)
