"""The page on options of one's own: what it shows is run as it stands, by the real trainer."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import Worker, config, make_loop, write_recording, write_task

from band.config import to_dict
from band.errors import ConfigError
from band.run_dir import verify
from band.train.task import train_task

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(SWEEP,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
OPTIONS = {"reconstruction": "NegativeBinomial", "co_prior": "Laplace", "behavior_decoder": "Hidden"}


def own(module: str, **changes: str):
    """Return a small run with options of `module`."""
    base = config(seed=1, behavior_weight=0.2, train={"augmentations": changes.pop("augmentations", "")})
    return replace(base, arch=replace(base.arch, **{key: f"{module}:{name}" for key, name in changes.items()}))


def test_each_option_takes_a_dozen_lines():
    imports, *classes = CODE
    assert len(classes) == 4 and "\nclass " not in imports
    for text in classes:
        assert len([line for line in text.splitlines() if line.strip()]) <= 12, text


def test_what_the_page_shows_trains_and_is_used(tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "mylab.py").write_text("\n\n".join(CODE))
    write_recording(tmp_path / "recording.h5")
    (tmp_path / "own.yaml").write_text(SWEEP)
    sizes = [f"arch.{key}=8" for key in ("gen_dim", "fac_dim", "con_dim", "ic_dim", "ic_enc_dim", "ci_enc_dim")]
    paths = os.pathsep.join([str(tmp_path / "lab"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", "from band.cli.train import main; raise SystemExit(main())", "own.yaml",
         "max_epochs=4", "kl_increase_epoch=2", "posterior_samples=2", "batch_size=8", *sizes],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths, "BAND_SCRATCH": str(tmp_path / "scratch")},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (tmp_path / "sweeps" / "own.train" / "runs").glob("band*")
    params = torch.load(run / "model.pt", weights_only=True)["params"]
    starts = {"recon.log_shape": 2.0, "co_prior.logscale": -1.498, "behavior.weight_in": None}
    for name, start in starts.items():
        moved = params[name] if start is None else params[name] - start
        assert bool((moved.abs() > 1e-3).any()), f"{name} is trained"
    result = verify(run)
    assert result["scores"]["test"]["bits_per_spike"] is not None
    assert result["config"]["train"]["augmentations"] == "jitter, mylab:Gain"


def test_an_augmentation_of_ones_own_acts_in_training(lab, tmp_path):
    run = own(lab, augmentations=f"{lab}:Gain")
    loop = make_loop(write_recording(tmp_path / "tiny.h5"), {"a": run, "b": replace(run, seed=2)})
    index, weight = loop._next_batch()
    raw = loop._trials.batch(index, weight)
    batch, _ = loop._fixed.augmenter.training(raw, index, step=0)
    gain = batch.encod[0] / raw.encod[0]
    for trial in gain.flatten(0, 1):
        values = trial[~trial.isnan()]
        assert bool((values - values[0]).abs().max() < 1e-6) and 0.5 < float(values[0]) < 1.5
    assert torch.equal(batch.recon[0], raw.recon[0])


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A module of its own for every test, since an import is kept."""
    name = re.sub(r"\W", "_", tmp_path.name)
    (tmp_path / f"{name}.py").write_text("\n\n".join(CODE) + "\n\nclass Half(Reconstruction):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


class Silent:
    """Takes events, and fails where training begins."""

    def send(self, event: str, **fields: object) -> None:
        raise AssertionError(event)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reconstruction": "Laplace"}, "must be a class derived from band.model.reconstructions.base.Reconstruction"),
        ({"reconstruction": "Half"}, "lacks means, terms"),
        ({"co_prior": "Gain"}, "must be a class derived from band.model.priors.base.Prior"),
        ({"behavior_decoder": "math"}, "must be a class derived from band.model.behavior.base.BehaviorDecoder"),
        ({"augmentations": "Hidden"}, "must be a class derived from band.train.augmentations.base.Augmentation"),
        ({"augmentations": "Nothing"}, "cannot be imported"),
        ({"ic_prior": "Nothing"}, "cannot be imported"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_refused_before_training(lab, tmp_path, changes, message):
    run = own(lab, **{key: f"{lab}:{name}" if key == "augmentations" else name for key, name in changes.items()})
    data = write_recording(tmp_path / "tiny.h5")
    task = {"task": "0", "threads": 1, "device": "cpu", "dataset": {"path": str(data), "digest": "0" * 64},
            "runs": [{"id": "a", "config": to_dict(run)}]}  # fmt: skip
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        train_task(task, work=tmp_path, data=data, runs=["a"], events=Silent(), commands=queue.SimpleQueue())
    (key,) = changes
    assert str(caught.value).startswith(f"{'train' if key == 'augmentations' else 'arch'}.{key}")


def test_a_module_that_is_not_on_the_path_is_named_with_what_to_do(tmp_path):
    data = write_recording(tmp_path / "tiny.h5")
    task = write_task(tmp_path, data, {"a": own("notthere", **OPTIONS)})
    events = list(Worker(task, tmp_path / "work", data, ["a"]).events())
    assert [event["event"] for event in events] == ["failed"] and events[0]["error"] == "ConfigError"
    assert events[0]["message"].startswith("arch.") and "put its folder on PYTHONPATH" in events[0]["message"]
    assert "Traceback" not in events[0]["traceback"]
