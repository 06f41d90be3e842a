"""Curves of a run: from its published metrics, else from the events of all its attempts, read once each."""

from __future__ import annotations

from pathlib import Path

from local_sweep import make_sweep

from band.run_dir import EventWriter
from band.sweep.curves import CurveReader, read_metrics
from band.sweep.fold import AttemptFold


def test_events_of_all_attempts_make_the_curves_of_a_run_and_its_metrics_take_their_place(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"a": {}, "b": {}}).sweep
    one, two = (EventWriter(sweep.event_file("0001", attempt=name)) for name in ("one", "two"))
    for epoch in (1, 2, 3):
        progress = {"epoch": epoch, "max_epochs": 9, "valid_recon": 10.0 / epoch, "lr": 0.01, "word": "x"}
        one.write("epoch", runs={"a": progress, "b": {"epoch": epoch, "valid_recon": 7.0}}, steps_per_s=1.0)
    attempts = [AttemptFold("0001", "one"), AttemptFold("0001", "two")]
    reader = CurveReader(sweep, "a")
    assert reader.read(attempts[:1]) == {
        "valid_recon": [(1.0, 10.0), (2.0, 5.0), (3.0, 10 / 3)],
        "lr": [(1.0, 0.01), (2.0, 0.01), (3.0, 0.01)],
    }
    two.write("epoch", runs={"a": {"epoch": 3, "valid_recon": 3.0}}, steps_per_s=1.0)
    two.write("epoch", runs=None)
    two.write("epoch", runs={"a": {"epoch": 4, "valid_recon": 2.0}}, steps_per_s=1.0)
    assert reader.read(attempts)["valid_recon"][-2:] == [(3.0, 3.0), (4.0, 2.0)], "trained again from a checkpoint"
    sweep.run("a").mkdir(parents=True)
    metrics = sweep.run("a") / "metrics.csv"
    metrics.write_text("epoch,step,valid_loss,valid_behavior_r2\n0,5,4.5,\n1,10,3.5,0.25\n2,15,nan,0.5\n")
    assert read_metrics(metrics)["valid_loss"] == {1.0: 4.5, 2.0: 3.5}
    assert reader.read(attempts) == {
        "valid_loss": [(1.0, 4.5), (2.0, 3.5)],
        "valid_behavior_r2": [(2.0, 0.25), (3.0, 0.5)],
    }
    assert reader.source == str(metrics)
    assert CurveReader(sweep, "no_such").read([]) == {}
