"""Exports are read back by the tools themselves: past runs whole and once, running ones as they go, faults named."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from published_sweep import publish_sweep, runs_of

from band.cli.sweep import main
from band.exports import loggers
from band.run_dir import EventWriter

BITS = "test/bits_per_spike"


def scores_of(run):
    bits = 0.2 + 0.1 * run["seed"]
    return {"train": {}, "valid": {"bits_per_spike": bits}, "test": {"bits_per_spike": bits, "empty": None}}


@pytest.fixture
def sweep(tmp_path):
    return publish_sweep(tmp_path / "reach", runs_of(seeds=2), scores=scores_of, epochs=12)


def export(folder, *arguments):
    return main(["export", str(folder), *arguments])


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_reads_curves_and_scores_and_a_second_export_adds_nothing(sweep, capsys):
    into = sweep / "exports" / "tensorboard"
    assert export(sweep, "--to", "tensorboard") == 0
    assert "4 of 4 runs are in" in capsys.readouterr().out
    found = scalars(into / "r001-maze")
    assert [step for step, _ in found["valid_recon"]] == list(range(12))
    assert found[BITS] == [(0, pytest.approx(0.3))] and "test/empty" not in found
    assert "valid_behavior_r2" not in found and "valid_behavior_r2" in scalars(into / "r003-maze")
    before = sorted(into.rglob("*"))
    assert export(sweep, "--to", "tensorboard") == 0 and sorted(into.rglob("*")) == before


def test_tensorboard_has_the_parameters_for_its_tab_of_hyperparameters(sweep):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    assert export(sweep, "--to", "tensorboard") == 0
    events = EventAccumulator(str(sweep / "exports/tensorboard/r002-maze"))
    events.Reload()
    content = HParamsPluginData.FromString(events.PluginTagToContent("hparams")["_hparams_/session_start_info"])
    known = content.session_start_info.hparams
    assert known["hyper.behavior_weight"].number_value == 1 and known["arch.causal_con"].bool_value is True


def test_mlflow_reads_parameters_curves_and_scores(sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    assert export(sweep, "--to", "mlflow", "--into", str(tmp_path / "store")) == 0
    client = MlflowClient(tracking_uri=(tmp_path / "store").as_uri())
    runs = client.search_runs([client.get_experiment_by_name("reach").experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert len(runs) == len(by_name) == 4 and {run.info.status for run in runs} == {"FINISHED"}
    run = by_name["r003-maze"]
    assert run.data.metrics[BITS] == pytest.approx(0.3) and run.data.params["hyper.behavior_weight"] == "1.0"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "valid_recon")] == list(range(12))
    assert run.data.tags["model"] == "BAND"


def records_of(path):
    """Return the records of a .wandb file: after seven bytes, pieces in blocks, as LevelDB logs."""
    from wandb.proto import wandb_internal_pb2

    data, at, message = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        message += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield wandb_internal_pb2.Record.FromString(message)
            message = b""


def test_wandb_leaves_offline_runs_that_can_be_synced_later(sweep, capsys):
    assert export(sweep, "--to", "wandb") == 0
    assert "wandb sync" in capsys.readouterr().out
    files = sorted((sweep / "exports/wandb/wandb").glob("offline-run-*/run-*.wandb"))
    assert [path.stem for path in files] == [f"run-r{n:03d}-maze" for n in range(4)]
    epochs, scores = [], {}
    for record in records_of(files[1]):
        epochs += [item for item in record.history.item if (item.key or item.nested_key[0]) == "valid_recon"]
        scores |= {(u.key or u.nested_key[0]): u.value_json for u in record.summary.update}
    assert len(epochs) == 12 and json.loads(scores[BITS]) == pytest.approx(0.3)


def test_a_running_sweep_is_followed_by_its_events_until_all_is_published(tmp_path, monkeypatch, capsys):
    runs = [{**run, "published": run["seed"] == 0} for run in runs_of(weights=(1.0,), seeds=2)]
    folder = publish_sweep(tmp_path / "reach", runs, scores=scores_of, epochs=5)
    stream = EventWriter(folder / "events" / "0001.a.jsonl")

    def tell(epoch):
        values = {"epoch": epoch, "max_epochs": 5, "valid_recon": 100.0 - epoch}
        stream.write("epoch", runs={"r001-maze": values, "r000-maze": values}, steps_per_s=1.0)

    def wait(seconds):
        """In place of sleeping: the run goes on, then it is published, by way of another copy of the sweep."""
        if not waits:
            tell(3)
        else:
            os.rename(other / "runs" / "r001-maze", folder / "runs" / "r001-maze")
        waits.append(seconds)

    other = publish_sweep(tmp_path / "other", [{**run, "published": True} for run in runs], scores=scores_of, epochs=5)
    waits = []
    tell(2)
    monkeypatch.setattr("band.cli.export_runs.time.sleep", wait)
    assert export(folder, "--to", "tensorboard", "--follow") == 0
    assert len(waits) == 2
    (live,) = (folder / "exports/tensorboard").glob("r001-maze-live-*")
    assert [step for step, _ in scalars(live)["valid_recon"]] == [2, 3]
    assert len(scalars(folder / "exports/tensorboard/r001-maze")["valid_recon"]) == 5
    assert not list((folder / "exports/tensorboard").glob("r000-maze-live-*"))  # it was published already


def test_a_fault_of_a_logger_is_named_and_the_others_are_handed_on(sweep, monkeypatch, capsys):
    real = loggers.TensorBoard.open

    def fails(self, name, **kwargs):
        if name == "r001-maze":
            raise RuntimeError("no such luck")
        return real(self, name, **kwargs)

    monkeypatch.setattr(loggers.TensorBoard, "open", fails)
    assert export(sweep, "--to", "tensorboard") == 4
    said = capsys.readouterr()
    assert "r001-maze: not handed on: RuntimeError: no such luck" in said.err and "3 of 4 runs" in said.out
    monkeypatch.undo()
    assert export(sweep, "--to", "tensorboard") == 0 and "4 of 4 runs" in capsys.readouterr().out


@pytest.mark.parametrize("tool", ["tensorboard", "wandb", "mlflow"])
def test_a_tool_that_is_not_installed_is_named_with_its_extra(sweep, monkeypatch, capsys, tool):
    monkeypatch.setitem(sys.modules, tool, None)
    assert export(sweep, "--to", tool) == 1
    assert f"pip install 'band-sweep[{tool}]'" in capsys.readouterr().err


def test_nothing_of_a_sweep_but_its_exports_is_changed(sweep):
    before = {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()}
    assert export(sweep, "--to", "tensorboard") == 0
    after = {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()}
    assert {p: data for p, data in after.items() if Path("exports") not in [*p.relative_to(sweep).parents]} == before
