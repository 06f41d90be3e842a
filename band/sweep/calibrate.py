"""What finished tasks teach about the speed of this machine."""

from __future__ import annotations

from band.files import read_json_object
from band.run_dir import SweepDir, read_result
from band.sweep.estimate import calibrate, estimate
from band.sweep.manifest import read_manifest
from band.sweep.pack import dataset_shapes_of

SHORTEST_S = 20.0  # of training; below it the start of the trainer is most of what is measured


def learn_from_task(sweep: SweepDir, *, task: str) -> None:
    """Correct the estimates by the training time of a task whose runs are over; one of several threads says nothing.

    Raises:
        BandError: a file is damaged.
        OSError: a file cannot be read, or the user's cache not written.
        KeyError: a file is of another schema.
    """
    values = read_json_object(sweep.task(task).task_json)
    if values["device"] != "cpu" or values["threads"] != 1:
        return
    manifest = read_manifest(sweep.path)
    dataset = next(n for n, entry in enumerate(manifest.datasets) if entry["digest"] == values["dataset"]["digest"])
    expected = measured = 0.0
    for run in values["runs"]:
        if not sweep.run(run["id"]).exists():
            continue
        training = read_result(sweep.run(run["id"]))["training"]
        share = training["epochs"] / run["config"]["train"]["max_epochs"]
        expected += share * estimate(run["config"], dataset_shapes_of(manifest, dataset)).seconds
        measured = max(measured, training["seconds"])  # its members were trained together
    if measured > SHORTEST_S:
        calibrate(measured, estimated_s=expected)
