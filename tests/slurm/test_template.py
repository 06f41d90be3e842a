"""A template is read as sbatch reads a script, and what only looks as if it counted is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_lab.lab import Lab

from band.errors import ConfigError
from band.slurm import jobs
from band.slurm.command import SlurmError, run
from band.slurm.template import find_template, read_template

TRICKY = r"""#!/bin/bash
#SBATCH -p normal -t 5   # two in a line
#SBATCH --comment="a b" --mem 100
  #SBATCH --partition=nosuch
#SBATCH	-c2
##SBATCH --partition=nosuch

# an ordinary comment
#SBATCH --comment='x # y' --exclude=c2 # --partition=zz
#SBATCH--time=3
#sbatch --time=4
module load python
#SBATCH --partition=nosuch
export X=1
"""


def write(folder: Path, *lines: str) -> Path:
    """Write a template of these lines below a first one that names bash."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "t.sh"
    path.write_text("\n".join(["#!/bin/bash", *lines]) + "\n")
    return path


def options(path: Path) -> dict[str, str]:
    return {name: value.value for name, value in read_template(path).sbatch.items() if value is not None}


def test_options_and_set_up_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "site.sh"
    path.write_text(TRICKY)
    template = read_template(path)
    assert options(path) == {
        "partition": "normal", "time": "3", "mem": "100", "cpus-per-task": "2", "comment": "x # y", "exclude": "c2",
    }  # fmt: skip
    assert {name: value.origin for name, value in template.sbatch.items() if value}["exclude"].endswith("site.sh:9")
    assert template.setup[-2:] == ("module load python", "export X=1")
    assert not [line for line in template.setup if line.startswith(("#SBATCH", "#!"))]
    assert [warning.partition("site.sh:")[2].partition(": ")[0] for warning in template.warnings] == ["4", "13"]
    assert "below the first command, in line 12" in template.warnings[1]


def test_sbatch_reads_the_same_options_from_the_same_file(lab: Lab) -> None:
    path = lab.home / "site.sh"
    path.write_text(TRICKY)
    shown = jobs.show(run(["sbatch", "--parsable", "--hold", str(path)]).strip())
    ours = options(path)
    assert shown["Partition"] == ours["partition"] and shown["TimeLimit"] == f"00:0{ours['time']}:00"
    assert shown["MinMemoryNode"] == f"{ours['mem']}M" and shown["CPUs/Task"] == ours["cpus-per-task"]
    assert shown["Comment"] == ours["comment"] and shown["ExcNodeList"] == ours["exclude"]


@pytest.mark.parametrize(
    "line",
    [
        '--comment="it\'s \\"q\\" $HOME"',
        "--comment=a\\\\b",
        "--comment='a\\b'",
        "--comment=a#b -t 5",
        '--comment=a"b c"d -t5',
        "--comment a",
        "--comment=x -t5#x",
        "--comment=x -Ot7",
        "--comment=x --part normal --time=1:30:00",
        "--comment=x -t 5 -t 6",
        "--comment=x --mem=5 --contiguous",
    ],
)
def test_a_line_is_split_into_words_as_sbatch_does(shared_slurm_lab: Lab, line: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"#SBATCH {line}")
    found = options(path)
    done = shared_slurm_lab.run(["sbatch", "--parsable", "--hold", path], check=True)
    shown = jobs.key_values(shared_slurm_lab.run(["scontrol", "show", "job", "-o", done.stdout.strip()]).stdout)
    assert shown["Comment"] == found["comment"]
    times = {"5": "00:05:00", "6": "00:06:00", "7": "00:07:00", "1:30:00": "01:30:00", "": "01:00:00"}
    assert shown["TimeLimit"] == times[found.get("time", "")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("#SBATCH --parition=gpu", "t.sh:2: sbatch has no option --parition; did you mean partition?"),
        ("#SBATCH -p gpu -Z", "t.sh:2: sbatch has no option -Z"),
        ("#SBATCH --time=12h", "t.sh:2: time must be a time"),
        ("#SBATCH --time", "t.sh:2: time needs a value"),
        ("#SBATCH gpu", "t.sh:2: 'gpu' is no option of sbatch"),
        ("#SBATCH hetjob", "t.sh:2: hetjob: a job of band is one process on one node"),
        ("#SBATCH --job-name=mine", "t.sh:2: job-name cannot be set: band finds its jobs by their names"),
        ('#SBATCH --comment="open', 't.sh:2: the quote " is not closed'),
        ("#SBATCH --mem=4G --mem-per-cpu=1G", "t.sh: mem and mem-per-cpu exclude each other"),
        ("#SBATCH --partition=gpu\r", "line ends of Windows"),
    ],
)
def test_what_sbatch_would_refuse_is_refused_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_template(write(tmp_path, line))
    assert str(caught.value).startswith("template ") and words in str(caught.value)


def test_a_script_for_another_shell_or_another_queue_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "t.sh"
    path.write_text("#!/usr/bin/env python3\n")
    with pytest.raises(ConfigError, match="must be a bash script"):
        read_template(path)
    template = read_template(write(tmp_path, "#PBS -q gpu", "source env"))
    assert template.setup == ("source env",) and "is not for Slurm" in template.warnings[0]


def test_the_template_nearest_to_the_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    write(tmp_path / "config/band/sbatch_templates", "#SBATCH -p users").rename(
        tmp_path / "config/band/sbatch_templates/edinburgh.sh"
    )
    found = find_template("edinburgh", folder=tmp_path)
    assert found.name == "edinburgh" and found.sbatch["partition"] is not None
    assert found.sbatch["partition"].value == "users"
    write(tmp_path / "sbatch_templates", "#SBATCH -p here").rename(tmp_path / "sbatch_templates/edinburgh.sh")
    found = find_template("edinburgh", folder=tmp_path)
    assert found.sbatch["partition"] is not None and found.sbatch["partition"].value == "here"
    assert find_template("sbatch_templates/edinburgh.sh", folder=tmp_path).path == found.path
    assert find_template("venv", folder=tmp_path).setup, "band ships one"
    with pytest.raises(ConfigError, match="did you mean edinburgh"):
        find_template("edinburg", folder=tmp_path)
    with pytest.raises(ConfigError, match="local is this machine"):
        find_template("local", folder=tmp_path)


def test_sbatch_says_that_a_file_of_windows_cannot_be_read_and_so_do_we(lab: Lab) -> None:
    path = write(lab.home, "#SBATCH -p normal\r")
    with pytest.raises(SlurmError, match="DOS line breaks"):
        run(["sbatch", str(path)])
