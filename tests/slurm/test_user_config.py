"""A user's configuration: what it may hold, and where each mistake in it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from band.errors import ConfigError
from band.slurm.options import merge
from band.slurm.user_config import config_folder, read_user_config

FULL = """\
cluster: informatics
wckey: lab
webhook: https://example.org/hook
sbatch:
  account: neuro
  mem_per_cpu: 4G
  time: 12:00:00
clusters:
  informatics:
    template: edinburgh
    max_parallel: 8
    container: apptainer exec image.sif
    setup:
      - module load python
      - export A=1
    sbatch: {mem: 8G, account: null, C: "a100|h100"}
  eddie:
"""


def test_a_configuration_is_read_with_each_options_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(FULL)
    config = read_user_config(path)
    assert (config.cluster, config.wckey, config.webhook, config.hook) == (
        "informatics", "lab", "https://example.org/hook", "",
    )  # fmt: skip
    own = config.clusters["informatics"]
    assert (own.template, own.max_parallel, own.setup) == ("edinburgh", 8, ("module load python", "export A=1"))
    merged = merge([("template", {"partition": "gpu"}), *config.layers("informatics")])
    assert {name: (value.value, value.origin.rpartition(":")[2]) for name, value in merged.items()} == {
        "constraint": ("a100|h100", "16"),
        "mem": ("8G", "16"),
        "partition": ("gpu", "template"),
        "time": ("12:00:00", "7"),
    }
    assert {name: value.value for name, value in merge(config.layers("eddie")).items()} == {
        "account": "neuro", "mem-per-cpu": "4G", "time": "12:00:00",
    }  # fmt: skip
    assert config.layers("elsewhere") == config.layers("eddie")


def test_without_a_file_all_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_folder() == tmp_path / "band"
    config = read_user_config()
    assert config.path == tmp_path / "band/config.yaml" and not config.sbatch and not config.clusters
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert config_folder() == Path.home() / ".config/band"
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing yet\n")
    assert read_user_config(path).cluster == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clutser: a\n", ":1: clutser is no setting; did you mean cluster?"),
        ("sbatch:\n  parition: gpu\n", ":2: sbatch has no option parition; did you mean partition?"),
        ("sbatch:\n  time: soon\n", ":2: time must be a time"),
        ("sbatch: [a]\n", ":1: must be a mapping of keys to values, found a list"),
        ("sbatch:\n  mem: {a: 1}\n", ":2: mem must be a word or a number"),
        ("sbatch:\n  mem: 1G\n  --mem: 2G\n", ":3: mem is given twice"),
        ("clusters:\n  a:\n    tempalte: x\n", ":3: clusters.a.tempalte is no setting; did you mean template?"),
        ("clusters:\n  a:\n    max_parallel: many\n", ":3: max_parallel must be a whole number above 0, found 'many'"),
        ("clusters:\n  a:\n    max_parallel: 0\n", ":3: max_parallel must be a whole number above 0, found 0"),
        ("clusters: a\n", ":1: must be a mapping"),
        ("cluster: [a, b]\n", ":1: cluster must be text, found a list"),
        ("- a\n", ":1: must be a mapping"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_user_config(path)
    assert str(caught.value).startswith(str(path)) and words in str(caught.value)
