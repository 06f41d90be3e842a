"""Options of sbatch: their names, what may stand after them, where each value comes from, and which layer wins."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from band.errors import ConfigError, did_you_mean
from band.slurm.units import UNLIMITED, time_s

# Read from sbatch 22.05 itself; after the bar what later releases added. "name:x" has the short form -x.
_VALUED = (
    "account:A acctg-freq array:a batch bb bbf begin:b chdir:D cluster-constraint clusters:M comment constraint:C "
    "container core-spec:S cores-per-socket cpu-freq cpus-per-gpu cpus-per-task:c deadline delay-boot dependency:d "
    "distribution:m error:e exclude:x export export-file extra-node-info:B gid gpu-bind gpu-freq gpus:G gpus-per-node "
    "gpus-per-socket gpus-per-task gres gres-flags hint input:i job-name:J kill-on-invalid-dep licenses:L mail-type "
    "mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nodefile:F nodelist:w nodes:N ntasks:n "
    "ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output:o partition:p power prefer "
    "priority profile qos:q reservation signal sockets-per-node switches thread-spec threads-per-core time:t time-min "
    "tmp uid wait-all-nodes wckey wrap | container-id extra resources segment tres-bind tres-per-task"
)
_OPTIONAL = "exclusive get-user-env nice no-kill:k propagate | oom-kill-step resv-ports"
_SWITCHES = (
    "contiguous help:h hold:H ignore-pbs no-requeue overcommit:O oversubscribe:s parsable quiet:Q reboot requeue "
    "spread-job test-only usage use-min-nodes verbose:v version:V wait:W | consolidate-segments external "
    "spread-segments stepmgr"
)
_OWN = {
    "array": "band plans the arrays; how many tasks run at once is --max-parallel",
    "chdir": "a job starts in the snapshot of the code",
    "clusters": "band asks one cluster; to use another, set SLURM_CONF or log in there",
    "dependency": "band makes what jobs depend on each other; to wait, use begin",
    "hold": "band holds every array until its receipt is written, and then releases it",
    "job-name": "band finds its jobs by their names",
    "kill-on-invalid-dep": "band makes what jobs depend on each other",
    "no-requeue": "a job that cannot be requeued cannot continue",
    "open-mode": "logs are appended to",
    "requeue": "every job of band can be requeued",
    "signal": "band asks for its own warning before the time limit",
    "test-only": "use --dry-run",
    "wait": "use `band-sweep status --watch`",
    "wrap": "a job runs the trainer",
}
_OWN |= dict.fromkeys(("error", "input", "output"), "logs are in the sweep's folder")
_OWN |= dict.fromkeys(
    ("help", "ignore-pbs", "parsable", "quiet", "usage", "verbose", "version"), "it says nothing about a job"
)
_ONE = ("ntasks-per-gpu", "ntasks-per-socket")
_PROCESSES = ("nodes", "ntasks", "ntasks-per-node")  # above 1 only for a search that is shared by so many
_POSITIVE = ("cores-per-socket", "cpus-per-gpu", "cpus-per-task", "mincpus", "sockets-per-node", "threads-per-core")
_MEMORY = ("mem", "mem-per-cpu", "mem-per-gpu", "tmp")
_TIMES = ("time", "time-min")
_GPUS = ("gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task")
_SAY_NONE = ("export", "gpu-bind", "mail-type", "mem-bind", "profile", "propagate")  # "none" is a value of theirs
# Of a row a job can have one.
_RIVALS = (
    ("mem", "mem-per-cpu", "mem-per-gpu"),
    ("cpus-per-task", "cpus-per-gpu"),
    ("core-spec", "thread-spec"),
    ("exclusive", "oversubscribe"),
)
_USUAL = {  # words of other queues and of submitit
    "cpus": "cpus-per-task",
    "cores": "cpus-per-task",
    "gpu": "gpus",
    "gpus-per-job": "gpus",
    "memory": "mem",
    "queue": "partition",
    "timeout": "time",
    "timeout-min": "time",
    "walltime": "time",
}
_MEMORY_FORM = re.compile(r"[0-9]{1,15}[KMGT]?B?", re.IGNORECASE)
_GPU_COUNT = re.compile(r"(?:[A-Za-z][\w.-]*:)?[0-9]{1,9}(?:,[A-Za-z][\w.-]*:[0-9]{1,9})*")
_GRES = re.compile(r"(?:gres[/:])?[A-Za-z][\w./-]*(?::[A-Za-z][\w.-]*)?(?:[:=][0-9]+[KkMmGgTt]?)?(?:\(S:[-0-9,]+\))?")


class Value(NamedTuple):
    """What stands after an option ("" after a switch), and in words where that was written."""

    value: str
    origin: str


def _table() -> dict[str, tuple[str, str]]:
    found = {}
    for kind, names in (("valued", _VALUED), ("optional", _OPTIONAL), ("switch", _SWITCHES)):
        for word in names.replace("|", " ").split():
            name, _, short = word.partition(":")
            found[name] = (kind, short)
    return found


OPTIONS = _table()  # {long name: ("valued" | "optional" | "switch", short name or "")}
SHORT = {short: name for name, (_, short) in OPTIONS.items() if short}


def num_processes(options: Mapping[str, Value]) -> tuple[int, str]:
    """Return how many processes a job is asked to have, and the option that says so."""
    numbers = {name: int(options[name].value.partition("-")[0]) for name in _PROCESSES if name in options}
    asked = numbers.get("ntasks") or numbers.get("nodes", 1) * numbers.get("ntasks-per-node", 1)
    return asked, next((name for name in ("ntasks", "nodes", "ntasks-per-node") if numbers.get(name, 1) > 1), "")


def normalise(name: str, *, origin: str) -> str:
    """Return the long name of an option given as "mem_per_cpu", "--mem-per-cpu", "-p" or by a clear beginning of it.

    Raises:
        ConfigError: sbatch has no such option; says which may have been meant.
    """
    word = name.strip()
    if word.lstrip("-") in SHORT:
        return SHORT[word.lstrip("-")]
    word = word.lstrip("-").replace("_", "-").lower().removeprefix("slurm-")
    if word in OPTIONS:
        return word
    beginning = [option for option in OPTIONS if len(word) >= 3 and option.startswith(word)]
    if len(beginning) == 1:
        return beginning[0]
    hint = f"did you mean {_USUAL[word]}?" if word in _USUAL else did_you_mean(word, beginning or OPTIONS)
    raise ConfigError(f"{origin}: sbatch has no option {name}; {_short_list(hint)}")


def _short_list(hint: str) -> str:
    return hint if len(hint) < 200 else "`sbatch --help` lists them"


def check(name: str, value: object, *, origin: str) -> str | None:
    """Return the value of an option as sbatch takes it, "" for a switch that is on, None for what is left out.

    Args:
        name: its long name.
        value: text, number, truth value or None, as a file or a command line has it.
        origin: what errors name.

    Raises:
        ConfigError: band sets this option itself, or it takes no such value.
    """
    if name in _OWN:
        raise ConfigError(f"{origin}: {name} cannot be set: {_OWN[name]}; leave it out")
    kind = OPTIONS[name][0]
    if value is None or value is False or (value == "none" and name not in _SAY_NONE):
        return None
    if value is True or value == "":
        if kind == "valued":
            raise ConfigError(f"{origin}: {name} needs a value")
        return ""
    if not isinstance(value, (str, int, float)):
        raise ConfigError(f"{origin}: {name} must be a word or a number, found {value!r}")
    text = str(value).strip()
    if kind == "switch":
        raise ConfigError(f"{origin}: {name} takes no value, found {text!r}; write {name}: true, or --{name}")
    if "\n" in text or "\0" in text or not text.isprintable():
        raise ConfigError(f"{origin}: {name} must be one line of text, found {text!r}")
    _check_form(name, text, origin=origin)
    return text


def _check_form(name: str, text: str, *, origin: str) -> None:
    """Raise ConfigError if a value has not the form that sbatch reads."""
    rule = ""
    if name in _TIMES and text.upper() not in UNLIMITED and time_s(text) is None:
        rule = 'be a time: "90" (minutes), "1:30:00" or "1-12:00:00"'
    elif name in _MEMORY and not _MEMORY_FORM.fullmatch(text):
        rule = 'be an amount of memory: "4G", "500M" or "4000" (megabytes)'
    elif name in _ONE and text not in ("1", "1-1"):
        rule = "be 1: a job of band is one process on one node"
    elif name in _PROCESSES + _POSITIVE and not re.fullmatch(r"0{0,9}[1-9][0-9]{0,8}|1-1", text):
        rule = "be a whole number above 0"
    elif name in _GPUS and not _GPU_COUNT.fullmatch(text):
        rule = 'be a number of GPUs: "1" or "a100:1"'
    elif name == "gres" and not all(_GRES.fullmatch(item) for item in _items(text)):
        rule = 'be a list of resources: "gpu:1" or "gpu:a100:1,shard:2"'
    elif name == "nice" and not re.fullmatch(r"-?[0-9]+", text):
        rule = "be a whole number"
    if rule:
        raise ConfigError(f"{origin}: {name} must {rule}; found {text!r}")


def _items(text: str) -> list[str]:
    """Return the parts between commas, those inside brackets excepted."""
    return re.split(r",(?![^(]*\))", text)


def read_layer(options: Mapping[str, object], *, origin: str) -> dict[str, Value | None]:
    """Return one layer of options under their long names; None: taken away from what lies below.

    Args:
        options: {name in any form: value}; a `Value` brings an origin of its own.
        origin: where the others were written.

    Raises:
        ConfigError: no such option, not a value of it, an option twice, or two that exclude each other.
    """
    layer: dict[str, Value | None] = {}
    for given, content in options.items():
        raw, where = (content.value, content.origin) if isinstance(content, Value) else (content, origin)
        name = normalise(given, origin=where)
        if name in layer:
            raise ConfigError(f"{where}: {name} is given twice; leave one out")
        text = check(name, raw, origin=where)
        layer[name] = None if text is None else Value(text, where)
    for row in _RIVALS:
        both = [name for name in row if layer.get(name) is not None]
        if len(both) > 1:
            raise ConfigError(f"{origin}: {' and '.join(both)} exclude each other; leave one out")
    return layer


def merge(layers: Sequence[tuple[str, Mapping[str, object]]]) -> dict[str, Value]:
    """Return the options of a job: of two layers that set one, the later wins, and removes what excludes it.

    Args:
        layers: (origin, {name in any form: value}), the weakest first: template, user config, sweep file, command line.

    Raises:
        ConfigError: as `read_layer`.
    """
    merged: dict[str, Value] = {}
    for origin, options in layers:
        layer = read_layer(options, origin=origin)
        for name, value in layer.items():
            for rival in _rivals(name, value, below=merged):
                merged.pop(rival, None)
            merged.pop(name, None)
        merged |= {name: value for name, value in layer.items() if value is not None}
    return dict(sorted(merged.items()))


def _rivals(name: str, value: Value | None, *, below: Mapping[str, Value]) -> list[str]:
    """Return what of the layers below an option replaces; GPUs can be asked for in five ways."""
    if value is None:
        return []
    rivals = [other for row in _RIVALS if name in row for other in row if other != name]
    if name in _GPUS or (name == "gres" and "gpu" in value.value):
        rivals += [other for other in _GPUS if other != name]
        if "gres" in below and name != "gres" and all(_is_gpu(item) for item in _items(below["gres"].value)):
            rivals.append("gres")
    return rivals


def _is_gpu(resource: str) -> bool:
    return re.match(r"(?:gres[/:])?gpu\b", resource) is not None


def num_gpus(options: Mapping[str, Value]) -> int:
    """Return how many GPUs a job of one node and one process asks for."""
    for name in _GPUS:
        if name in options:
            return sum(int(item.rpartition(":")[2]) for item in options[name].value.split(","))
    return count_gpus(options["gres"].value) if "gres" in options else 0


def count_gpus(resources: str) -> int:
    """Return the GPUs in a list of generic resources: "gpu:a100:2(S:0-1),gpu:1", "gres:gpu:1,shard:4"."""
    counts = [re.sub(r"\(.*\)", "", item).rpartition(":")[2] for item in _items(resources) if _is_gpu(item)]
    return sum(int(count) if re.fullmatch("[0-9]{1,9}", count) else 1 for count in counts)


def arguments(options: Mapping[str, Value]) -> list[str]:
    """Return options as words of sbatch's command line."""
    return [f"--{name}={value.value}" if value.value else f"--{name}" for name, value in options.items()]


def directives(options: Mapping[str, Value]) -> list[str]:
    """Return options as lines of a script, quoted as sbatch reads them: a backslash keeps the next character."""
    lines = []
    for name, value in options.items():
        quoted = re.sub(r'(["\\])', r"\\\1", value.value)
        needs_quotes = re.search(r"[\s'\"#\\]", value.value)
        text = f'"{quoted}"' if needs_quotes else value.value
        lines.append(f"#SBATCH --{name}={text}" if text else f"#SBATCH --{name}")
    return lines
