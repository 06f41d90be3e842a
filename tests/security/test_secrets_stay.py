"""What stands in the environment does not come into what is written: sweeps, jobs' scripts, results, logs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from local_sweep import make_sweep
from sweep_files import write_shapes

from band.errors import ConfigError
from band.sweep.document import read_document

SECRET = "hunter2-4d1f"


def test_a_sweep_leaves_nothing_of_the_environment_in_any_file(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, {"run-0": {"seed": 0}})
    names = ("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "HOMEGROWN")
    environment = {**sweep.environment, **dict.fromkeys(names, SECRET), "BAND_KEEP": "1"}
    type(sweep)(sweep.sweep, environment).band_sweep("submit", "--jobs", "1")
    assert sweep.published() == ["run-0"]
    found = subprocess.run(["grep", "-rlaF", SECRET, str(tmp_path)], capture_output=True, text=True)
    assert found.returncode == 1, found.stdout


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "wandb_api_key", "DB_PASSWORD", "MY_CREDENTIALS"]
)
@pytest.mark.parametrize("form", ["${oc.env:%s}", "${ oc.env: %s , x}", "a${oc.env:OTHER,${oc.env:%s}}"])
def test_a_sweep_file_cannot_have_a_secret_written_beside_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str
) -> None:
    monkeypatch.setenv(name, SECRET)
    write_shapes(tmp_path / "r.h5")
    (tmp_path / "s.yaml").write_text(f"base: {{data: {{path: '{form % name}'}}}}")
    with pytest.raises(ConfigError, match="name of a secret") as raised:
        read_document(tmp_path / "s.yaml")
    assert SECRET not in str(raised.value)
