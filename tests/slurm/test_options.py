"""Options as sbatch itself takes them, and the layers that they come from."""

from __future__ import annotations

import re
import subprocess

import pytest
from slurm_lab.lab import Lab

from band.errors import ConfigError
from band.slurm import jobs
from band.slurm.command import SlurmError, run
from band.slurm.options import OPTIONS, SHORT, Value, arguments, check, directives, merge, normalise, num_gpus


def values(*layers: dict[str, object]) -> dict[str, str]:
    """Return what layers named "1", "2", … come to, without origins."""
    merged = merge([(str(number), layer) for number, layer in enumerate(layers, start=1)])
    return {name: value.value for name, value in merged.items()}


def takes(name: str, value: object) -> bool:
    """Return whether band takes a value of an option."""
    try:
        check(name, value, origin="here")
    except ConfigError:
        return False
    return True


def test_every_option_that_this_sbatch_explains_is_known_with_its_short_form(lab: Lab) -> None:
    text = run(["sbatch", "--help"])
    explained = re.findall(r"^ +(?:-(\w),? +)?--([a-z-]+)", text, re.MULTILINE)
    assert len(explained) > 90
    assert {name for _, name in explained} <= set(OPTIONS)
    assert {short: name for short, name in explained if short}.items() <= SHORT.items()


def test_what_needs_a_value_and_what_takes_none_is_what_this_sbatch_says(lab: Lab) -> None:
    later = {"external", "stepmgr"}  # switches of later releases
    for name, (kind, _) in OPTIONS.items():
        done = subprocess.run(
            ["sbatch", f"--{name}=1", "--no-such-option"], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if f"unrecognized option '--{name}" in done.stderr or name in later:
            continue
        assert ("doesn't allow an argument" in done.stderr) == (kind == "switch"), name
        done = subprocess.run(["sbatch", f"--{name}"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert ("requires an argument" in done.stderr) == (kind == "valued"), name


TIMES = ["90", "90:00", "1:30:00", "1-12", "1-12:30", "1-12:00:00", "0", "UNLIMITED", "infinite", "1:90", "25:00:00"]
TIMES += ["1d", "90m", "1.5", "1:2:3:4", "x"]
MEMORY = ["4G", "4.5G", "4GB", "4g", "500k", "1P", "0", "100MB", "4X", "G", "-1", "4,000"]
GRES = ["gpu:1", "gpu", "gpu:1,gpu:1", "gres:gpu:1", "gpu :1", "gpu:1;", ":1", "gpu:1:"]


@pytest.mark.parametrize(
    ("name", "texts"),
    [("time", TIMES), ("time-min", TIMES), ("mem", MEMORY), ("mem-per-cpu", MEMORY), ("tmp", MEMORY), ("gres", GRES)],
)
def test_a_value_is_taken_if_sbatch_takes_it(lab: Lab, name: str, texts: list[str]) -> None:
    for text in texts:
        try:
            run(["sbatch", "--test-only", f"--{name}={text}", "--wrap", "true"])
            said = ""
        except SlurmError as error:
            said = str(error)
        complaints = (f"Invalid --{name} specification", "Invalid generic resource", "Invalid Trackable RESource")
        is_bad_form = any(complaint in said for complaint in complaints)
        assert takes(name, text) != is_bad_form, (text, said)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("mem_per_cpu", "mem-per-cpu"),
        ("--mem-per-cpu", "mem-per-cpu"),
        ("p", "partition"),
        ("-p", "partition"),
        ("C", "constraint"),
        ("c", "cpus-per-task"),
        ("slurm_partition", "partition"),
        ("partit", "partition"),
        (" time ", "time"),
    ],
)
def test_an_option_is_known_by_each_of_its_names(given: str, name: str) -> None:
    assert normalise(given, origin="here") == name


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("parition", "did you mean partition?"),
        ("walltime", "did you mean time?"),
        ("cpus", "did you mean cpus-per-task?"),
        ("gpu", "did you mean gpus?"),
        ("mem_per", "did you mean mem-per-"),
        ("qq", "`sbatch --help` lists them"),
    ],
)
def test_a_typo_is_answered_with_what_was_meant_and_where_it_stands(given: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=r"^maze\.yaml:7: sbatch has no option") as caught:
        normalise(given, origin="maze.yaml:7")
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"array": "1-3"}, "--max-parallel"),
        ({"output": "x"}, "logs are in the sweep's folder"),
        ({"requeue": True}, "every job of band can be requeued"),
        ({"nodes": "2-4"}, "a whole number above 0; found '2-4'"),
        ({"time": "12h"}, 'must be a time: "90" (minutes)'),
        ({"mem": "4 G"}, "must be an amount of memory"),
        ({"cpus_per_task": "two"}, "whole number above 0"),
        ({"cpus_per_task": 0}, "whole number above 0"),
        ({"gpus": "x"}, "must be a number of GPUs"),
        ({"exclusive": [1]}, "must be a word or a number"),
        ({"contiguous": "x"}, "contiguous takes no value"),
        ({"partition": True}, "partition needs a value"),
        ({"comment": "a\nb"}, "one line of text"),
        ({"mem": 1, "mem_per_gpu": 2}, "mem and mem-per-gpu exclude each other"),
        ({"mem": 1, "--mem": 2}, "mem is given twice"),
    ],
)
def test_what_cannot_be_is_refused_with_the_place_it_stands_in(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        merge([("sweep file", options)])
    assert str(caught.value).startswith("sweep file: ") and words in str(caught.value)


def test_a_later_layer_wins_and_each_value_knows_where_it_was_written() -> None:
    merged = merge(
        [
            ("template", {"partition": Value("gpu", "template a.sh:3"), "time": Value("60", "template a.sh:4")}),
            ("config.yaml", {"account": "x", "time": "90"}),
            ("sweep.yaml", {"account": None, "qos": "long"}),
            ("command line", {"time": "120"}),
        ]
    )
    assert merged == {
        "partition": Value("gpu", "template a.sh:3"),
        "qos": Value("long", "sweep.yaml"),
        "time": Value("120", "command line"),
    }


@pytest.mark.parametrize(
    ("below", "above", "both"),
    [
        ({"mem-per-cpu": "2G"}, {"mem": "4G"}, {"mem": "4G"}),
        ({"mem": "4G"}, {"mem_per_gpu": "9G"}, {"mem-per-gpu": "9G"}),
        ({"cpus-per-gpu": 4}, {"c": 2}, {"cpus-per-task": "2"}),
        ({"gpus": 2}, {"gres": "gpu:1"}, {"gres": "gpu:1"}),
        ({"gres": "gpu:2"}, {"gpus_per_node": "a100:1"}, {"gpus-per-node": "a100:1"}),
        ({"gres": "gpu:2,shard:1"}, {"time": 5}, {"gres": "gpu:2,shard:1", "time": "5"}),
        ({"mem": "4G"}, {"mem": None}, {}),
        ({"mem": "4G"}, {"mem": "none"}, {}),
        ({"gres": "gpu:1"}, {"gres": "none"}, {}),
        ({"exclusive": True}, {"exclusive": False}, {}),
        ({"mail-type": "ALL"}, {"mail_type": "NONE"}, {"mail-type": "NONE"}),
        ({"export": "ALL"}, {"export": "none"}, {"export": "none"}),
        ({"mem": "4G", "time": 5}, {"mem_per_cpu": None}, {"mem": "4G", "time": "5"}),
    ],
)
def test_an_option_replaces_what_excludes_it_in_the_layers_below(
    below: dict[str, object], above: dict[str, object], both: dict[str, str]
) -> None:
    assert values(below, above) == both


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 0),
        ({"gres": "gpu:2"}, 2),
        ({"gres": "gpu"}, 1),
        ({"gres": "shard:4,gpu:a100:1"}, 1),
        ({"gres": "gpu:a100:2(S:0-1)"}, 2),
        ({"gpus": 3}, 3),
        ({"gpus": "a100:1,v100:2"}, 3),
        ({"gpus-per-node": "a100:4"}, 4),
    ],
)
def test_gpus_are_counted_however_they_are_asked_for(options: dict[str, object], count: int) -> None:
    assert num_gpus(merge([("here", options)])) == count


def test_lines_of_a_script_and_words_of_a_command_reach_sbatch_as_they_were_meant(lab: Lab) -> None:
    for comment in ("plain", "two words", "it's", 'say "no"', "#1", "back\\slash", "a=b,c;$HOME `x` *", "\\", "é"):
        options = merge([("here", {"comment": comment, "time": "1-12", "exclusive": True})])
        script = lab.home / "job.sh"
        script.write_text("\n".join(["#!/bin/bash", *directives(options), "true"]) + "\n")
        for argv in ([], arguments(options)):
            job = run(["sbatch", "--parsable", "--hold", *argv, str(script)]).strip()
            shown = jobs.show(job)
            assert (shown["Comment"], shown["TimeLimit"], shown["OverSubscribe"]) == (comment, "1-12:00:00", "NO")
