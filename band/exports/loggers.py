"""What an export writes with: one small class a tool, each importing its package when it is made."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from band.errors import ConfigError

Values = Mapping[str, float]
MOST_LETTERS = 120  # of a name that tools take


class Log(Protocol):
    """One run as a tool keeps it."""

    def curve(self, epoch: int, values: Values) -> None:
        """Keep what was measured in an epoch."""
        ...

    def end(self, scores: Values, *, outcome: str) -> None:
        """Keep the final scores and close the run."""
        ...


class Logger(Protocol):
    """A tool's folder."""

    def open(self, name: str, *, group: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> Log:
        """Begin a run."""
        ...

    @property
    def next_step(self) -> str:
        """What to type, where there is a network or a browser."""
        ...


def make_logger(kind: str, folder: Path) -> Logger:
    """Return the logger of a tool.

    Raises:
        ConfigError: its package is not installed; says how to install it.
    """
    package, made = LOGGERS[kind]
    try:
        importlib.import_module(package)
    except ImportError:
        raise ConfigError(
            f"{package} is needed for this and is not installed: pip install 'band-sweep[{kind}]'"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    logger: Logger = made(folder.absolute())
    return logger


# TensorBoard ----------------------------------------------------------------------------------------------------------


class TensorBoard:
    """A folder of event files, one folder a run; parameters and scores for the tab of hyperparameters."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.next_step = f"tensorboard --logdir {folder}"

    def open(self, name: str, *, group: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> Log:
        """Begin a run."""
        return _EventFile(self._folder / name, parameters=parameters, group=name)


class _EventFile:
    def __init__(self, folder: Path, *, parameters: Mapping[str, Any], group: str) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._writer = EventFileWriter(str(folder))
        self._add(_session_start(parameters, group=group), step=0)

    def _add(self, summary: Any, *, step: int) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))

    def curve(self, epoch: int, values: Values) -> None:
        """Keep what was measured in an epoch."""
        of = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(self._summary(value=of), step=epoch)

    def end(self, scores: Values, *, outcome: str) -> None:
        """Keep the final scores and close the run."""
        self.curve(0, scores)
        self._writer.flush()
        self._writer.close()


def _session_start(parameters: Mapping[str, Any], *, group: str) -> Any:
    """Return the message by which the tab of hyperparameters knows a run; tensorboard's own maker of it needs more."""
    from tensorboard.compat.proto import summary_pb2
    from tensorboard.plugins.hparams import plugin_data_pb2

    start = plugin_data_pb2.SessionStartInfo(group_name=group, start_time_secs=time.time())
    for key, value in parameters.items():
        if isinstance(value, bool):
            start.hparams[key].bool_value = value
        elif isinstance(value, (int, float)):
            start.hparams[key].number_value = value
        else:
            start.hparams[key].string_value = str(value)
    content = plugin_data_pb2.HParamsPluginData(version=0, session_start_info=start).SerializeToString()
    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="hparams", content=content)
    metadata = summary_pb2.SummaryMetadata(plugin_data=plugin)
    value = summary_pb2.Summary.Value(tag="_hparams_/session_start_info", metadata=metadata)
    return summary_pb2.Summary(value=[value])


# Weights & Biases -----------------------------------------------------------------------------------------------------


class WeightsAndBiases:
    """Offline runs, which `wandb sync` sends from where there is a network; nothing is sent from here."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.next_step = f"wandb sync {folder}/wandb/offline-run-*"

    def open(self, name: str, *, group: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> Log:
        """Begin a run."""
        import wandb

        settings = wandb.Settings(
            mode="offline", console="off", silent=True, disable_git=True, disable_code=True, x_disable_stats=True,
            x_disable_meta=True,
        )  # fmt: skip
        run = wandb.init(
            project=group[:MOST_LETTERS], id=name[:MOST_LETTERS], name=name, group=tags.get("model"),
            config=dict(parameters), dir=str(self._folder), settings=settings, reinit="create_new",
        )  # fmt: skip
        run.define_metric("*", step_metric="epoch")
        return _OfflineRun(run)


class _OfflineRun:
    def __init__(self, run: Any) -> None:
        self._run = run

    def curve(self, epoch: int, values: Values) -> None:
        """Keep what was measured in an epoch."""
        self._run.log({"epoch": epoch, **values})

    def end(self, scores: Values, *, outcome: str) -> None:
        """Keep the final scores and close the run."""
        self._run.summary.update({**scores, "outcome": outcome})
        self._run.finish(exit_code=0 if outcome in ("ok", "running") else 1)


# MLflow ---------------------------------------------------------------------------------------------------------------


class MLflow:
    """A folder that is MLflow's store of runs; `mlflow migrate-filestore` moves it into a database."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a store that needs no server and no database
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=folder.as_uri())
        self.next_step = f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {folder}"

    def open(self, name: str, *, group: str, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> Log:
        """Begin a run."""
        found = self._client.get_experiment_by_name(group)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(group)
        run = self._client.create_run(experiment, run_name=name, tags=dict(tags))
        return _StoredRun(self._client, run.info.run_id, parameters=parameters)


class _StoredRun:
    BATCH = 500  # metrics that the store takes at once, less than its limit

    def __init__(self, client: Any, run: str, *, parameters: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, Param

        self._client, self._run, self._metric = client, run, Metric
        self._waiting: list[Any] = []
        words = [Param(key, str(value)[:500]) for key, value in parameters.items()]
        for begin in range(0, len(words), 100):
            client.log_batch(run, params=words[begin : begin + 100])

    def curve(self, epoch: int, values: Values) -> None:
        """Keep what was measured in an epoch."""
        now = int(time.time() * 1000)
        self._waiting += [self._metric(name.replace(" ", "_"), value, now, epoch) for name, value in values.items()]
        if len(self._waiting) >= self.BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        while self._waiting:
            self._client.log_batch(self._run, metrics=self._waiting[: self.BATCH])
            del self._waiting[: self.BATCH]

    def end(self, scores: Values, *, outcome: str) -> None:
        """Keep the final scores and close the run."""
        self.curve(0, scores)
        self.flush()
        self._client.set_tag(self._run, "outcome", outcome)
        self._client.set_terminated(self._run, status="FINISHED" if outcome in ("ok", "running") else "FAILED")


LOGGERS: Mapping[str, tuple[str, Any]] = {
    "tensorboard": ("tensorboard", TensorBoard),
    "wandb": ("wandb", WeightsAndBiases),
    "mlflow": ("mlflow", MLflow),
}
