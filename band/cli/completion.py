"""`band-sweep completion`: what completes commands, options, sweeps and runs in bash, zsh and fish.

The scripts are tables made of the parsers, and a few lines of shell that read them: no Python starts at a Tab. shtab,
which makes such tables too, knows no fish; argcomplete starts the program at each Tab.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from band.cli.common import print_json
from band.cli.parsers import TOOLS, all_parsers, summaries

HELP = "print what completes commands, sweeps and runs in bash, zsh or fish"
EXAMPLES = """\
examples:
  eval "$(band-sweep completion bash)"                       # for this shell; in ~/.bashrc for all
  band-sweep completion zsh > ~/.zfunc/_band                 # with fpath+=~/.zfunc before compinit
  band-sweep completion fish > ~/.config/fish/completions/band-sweep.fish

One script completes band-sweep, band-train, band-data and band-sync."""
SHELLS = ("bash", "zsh", "fish")
SWEEP, RUNS, FILES = "sweep", "runs", "files"  # what a positional argument can be


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")
    parser.add_argument("--json", action="store_true", help="print JSON: the script as a value")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    text = script(args.shell)
    if args.json:
        print_json({"shell": args.shell, "script": text})
    else:
        print(text, end="")
    return 0


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a command."""

    flags: tuple[str, ...]
    help: str
    has_value: bool
    choices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Completed:
    """What is known of a command line."""

    tool: str
    command: str  # "": the tool itself, before or without a command
    help: str
    options: tuple[Option, ...]
    places: tuple[str, ...]  # of its positional arguments, the last one repeated


def commands() -> list[Completed]:
    """Return all commands of all tools."""
    found = []
    for name, parser in all_parsers().items():
        tool, _, command = name.partition(" ")
        actions = [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
        options = tuple(
            Option(
                flags=tuple(action.option_strings),
                help=one_line(action.help),
                has_value=action.nargs != 0,
                choices=tuple(map(str, action.choices or ())),
            )
            for action in actions
            if action.option_strings
        )
        places = tuple(
            {"sweep": SWEEP, "source": SWEEP, "runs": RUNS}.get(a.dest, FILES) for a in actions if not a.option_strings
        )
        help = one_line(parser.description)
        found.append(Completed(tool=tool, command=command, help=help, options=options, places=places))
    return found


def one_line(text: str | None) -> str:
    """Return a help text as a table takes it."""
    return " ".join((text or "").replace("%(default)s", "as it is").replace("%%", "%").split())


def script(shell: str) -> str:
    """Return the script of a shell."""
    if shell == "fish":
        return "\n".join(_fish()) + "\n"
    head = "#compdef " + " ".join(TOOLS) + "\n" if shell == "zsh" else ""
    return head + COMMON + "\n".join([*_tables(), ""]) + (ZSH if shell == "zsh" else BASH)


def _tables() -> Iterator[str]:
    """Yield shell functions that print a line for each word: WORD, and where there is help a tab and HELP."""
    known = commands()
    words = [
        (f"{tool} ", [*summaries(tool).items(), *_words(c for c in known if (c.tool, c.command) == (tool, ""))])
        for tool in TOOLS
    ]
    words += [(f"{each.tool} {each.command}", _words([each])) for each in known if each.command]
    # An option that takes any value has one line, and that is empty.
    values = [
        (f"{each.tool} {each.command} {flag}", [(choice, "") for choice in option.choices] or [("", "")])
        for each in known
        for option in each.options
        for flag in (option.flags if option.has_value else ())
    ]
    places = [(f"{each.tool} {each.command}", [(place, "") for place in each.places]) for each in known]
    yield from _table("_band_words", "$1 $2", words)
    yield from _table("_band_values", "$1 $2 $3", values)
    yield from _table("_band_places", "$1 $2", places)


def _table(name: str, key: str, rows: Iterable[tuple[str, list[tuple[str, str]]]]) -> Iterator[str]:
    yield f'{name}() {{\n    case "{key}" in'
    for pattern, lines in rows:
        if lines:
            quoted = " ".join(shlex.quote(f"{word}\t{help}" if help else word) for word, help in lines)
            yield f"    {shlex.quote(pattern)}) printf '%s\\n' {quoted} ;;"
    yield "    esac\n}"


def _words(known: Iterable[Completed]) -> list[tuple[str, str]]:
    return [(flag, option.help) for command in known for option in command.options for flag in option.flags]


COMMON = r"""# Made by `band-sweep completion`; made anew it follows a newer release.
_band_sweeps() {
    find sweeps experiments/sweeps -maxdepth 2 -name manifest.jsonl 2>/dev/null | sed 's|/manifest.jsonl$||; s|.*/||'
}
_band_runs() {  # NAME
    local folder
    for folder in "$1" "sweeps/$1" "experiments/sweeps/$1"; do
        if [ -e "$folder/manifest.jsonl" ]; then
            sed -n 's/.*"id": *"\([^"]*\)".*/\1/p' "$folder/manifest.jsonl"
            return
        fi
    done
}
_band_kind() {  # TOOL COMMAND NUMBER: what the argument of that number is
    _band_places "$1" "$2" | sed -n "$3p;\$p" | head -n 1
}
"""
BASH = r"""_band() {
    local tool=${COMP_WORDS[0]##*/} word=${COMP_WORDS[COMP_CWORD]} command="" number=1 sweep="" values i
    local IFS=$'\n'
    [ "$COMP_CWORD" -gt 1 ] && command=${COMP_WORDS[1]}
    [ -n "$command" ] && [ -z "$(_band_words "$tool" "$command")" ] && command=""
    for ((i = 2; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        -*) ;;
        *)
            if [ "$(_band_values "$tool" "$command" "${COMP_WORDS[i - 1]}"; echo .)" = . ]; then
                [ "$number" = 1 ] && sweep=${COMP_WORDS[i]}
                number=$((number + 1))
            fi
            ;;
        esac
    done
    values=$(_band_values "$tool" "$command" "${COMP_WORDS[COMP_CWORD - 1]}"; echo .)
    COMPREPLY=()
    if [ "$COMP_CWORD" -gt 1 ] && [ "$values" != . ]; then
        COMPREPLY=($(compgen -W "${values%.}" -- "$word"))
    elif [ "$COMP_CWORD" = 1 ] || [ "${word:0:1}" = - ]; then
        COMPREPLY=($(compgen -W "$(_band_words "$tool" "$command" | cut -f 1)" -- "$word"))
    else
        case $(_band_kind "$tool" "$command" "$number") in
        sweep) COMPREPLY=($(compgen -W "$(_band_sweeps)" -- "$word")) ;;
        runs) COMPREPLY=($(compgen -W "$(_band_runs "$sweep")" -- "$word")) ;;
        esac
    fi
}
complete -o default -F _band band-sweep band-train band-data band-sync
"""
ZSH = r"""_band_offer() {  # LINES of WORD<Tab>HELP
    local -a rows
    local line
    for line in ${(f)1}; do
        rows+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    _describe word rows
}
_band() {
    local tool=${words[1]:t} command="" number=1 sweep="" values i
    (( CURRENT > 2 )) && command=$words[2]
    [[ -n $command && -z "$(_band_words $tool $command)" ]] && command=""
    for (( i = 3; i < CURRENT; i++ )); do
        if [[ $words[i] != -* && "$(_band_values $tool "$command" $words[i-1]; echo .)" == . ]]; then
            (( number == 1 )) && sweep=$words[i]
            (( number++ ))
        fi
    done
    values="$(_band_values $tool "$command" $words[CURRENT-1]; echo .)"
    if (( CURRENT > 2 )) && [[ $values != . ]]; then
        [[ $values == $'\n.' ]] && { _files; return }
        compadd -- ${(f)${values%.}}
    elif [[ $words[CURRENT] == -* ]]; then
        _band_offer "$(_band_words $tool "$command")"
    elif (( CURRENT == 2 )); then
        _band_offer "$(_band_words $tool "$command" | grep -v '^-')"
        [[ $tool == band-train ]] && _files
        return 0
    else
        case "$(_band_kind $tool "$command" $number)" in
        sweep) compadd -- ${(f)"$(_band_sweeps)"}; _files -/ ;;
        runs) compadd -- ${(f)"$(_band_runs $sweep)"} ;;
        *) _files ;;
        esac
    fi
}
if [[ $funcstack[1] == _band ]]; then
    _band "$@"
else
    compdef _band band-sweep band-train band-data band-sync
fi
"""
FISH = r"""# Made by `band-sweep completion`; made anew it follows a newer release.
function __band_sweeps
    find sweeps experiments/sweeps -maxdepth 2 -name manifest.jsonl 2>/dev/null | sed 's|/manifest.jsonl$||; s|.*/||'
end
function __band_sweep_or_runs
    set -l given (commandline -opc)
    set -l words
    set -l before
    for word in $given[3..-1]
        if not string match -q -- '-*' $word; and not contains -- "$before" $__band_valued
            set -a words $word
        end
        set before $word
    end
    if test (count $words) -eq 0
        __band_sweeps
        return
    end
    contains -- --only-sweep $argv; and return
    for folder in $words[1] sweeps/$words[1] experiments/sweeps/$words[1]
        if test -e $folder/manifest.jsonl
            sed -n 's/.*"id": *"\([^"]*\)".*/\1/p' $folder/manifest.jsonl
            return
        end
    end
end
function __band_is
    set -l given (commandline -opc)
    test (count $given) -gt 1; and test "$given[2]" = $argv[1]
end
function __band_begins
    test (count (commandline -opc)) -eq 1
end
"""


def _fish() -> Iterator[str]:
    valued = {flag for each in commands() for option in each.options if option.has_value for flag in option.flags}
    yield FISH
    yield f"set -g __band_valued {' '.join(sorted(valued))}"
    for tool in TOOLS:
        for name, help in summaries(tool).items():
            files = "" if tool == "band-train" else " -f"
            yield f"complete -c {tool}{files} -n __band_begins -a {name} -d {_quoted(help)}"
    for known in commands():
        condition = _quoted(f"__band_is {known.command}" if known.command else "__band_begins")
        if SWEEP in known.places:
            only = "" if RUNS in known.places else " --only-sweep"
            yield f"complete -c {known.tool} -f -n {condition} -a '(__band_sweep_or_runs{only})'"
        for option in known.options:
            flags = [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags]
            value = (
                f" -x -a {_quoted(' '.join(option.choices))}" if option.choices else " -r" if option.has_value else ""
            )
            yield f"complete -c {known.tool} -n {condition} {' '.join(flags)}{value} -d {_quoted(option.help)}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
