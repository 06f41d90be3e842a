#!/usr/bin/env bash
# Makes the environment that every target of the Makefile runs in, and installs the project into it: once, and again
# only when pyproject.toml, constraints.txt, the interpreter or the place of this checkout has changed.
#
#   VENV     folder of the environment; default: the active virtual environment, else .venv
#   PYTHON   interpreter to make it with; default: the first of python3, python3.13 … python3.10 that is new enough
#   PIP_*    read by pip itself: another index, wheels on disk, a proxy, a cache
#
# With --can-start it changes nothing, and fails if this machine cannot make such an environment.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-${VIRTUAL_ENV:-.venv}}
STAMP=$VENV/band-installed
LOG=$VENV/band-install.log
IS_SUPPORTED='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'

stop() {
    printf '%s\n' "$@" >&2
    exit 1
}

find_python() {  # prints the first interpreter that runs and is new enough
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if "$candidate" -c "$IS_SUPPORTED" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    stop "error: Python 3.10 to 3.13 is needed; ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1 || true)." \
        "Install one (Debian, Ubuntu: sudo apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3.12 …"
}

is_ready() {  # the environment is there, and its interpreter runs
    "$VENV/bin/python" -c "$IS_SUPPORTED" 2>/dev/null
}

can_make_environments() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

make_environment() {
    local python package=python3-venv
    python=$(find_python)
    if ! can_make_environments "$python"; then
        [ "$python" = python3 ] || package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        stop "error: $python cannot make virtual environments. Install what is missing, then try again:" \
            "    sudo apt-get install $package"
    fi
    "$python" -m venv --clear "$VENV" || stop "error: $python could not make the environment $VENV"
}

fingerprint() {
    "$VENV/bin/python" -c 'import sys; print(sys.version, sys.prefix)'
    pwd -P
    cksum pyproject.toml constraints.txt
}

install() {
    echo "Installing torch and what goes with it into $VENV ($("$VENV/bin/python" --version)), once; this can take minutes."
    if [ "$VENV" = .venv ] && ! command -v nvidia-smi >/dev/null && ! env | grep -q '^PIP_.*\(INDEX\|LINKS\)'; then
        echo "This machine has no NVIDIA driver: torch without CUDA is a tenth of the size; see docs/installing.md."
    fi
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$VENV/bin/python" -m ensurepip >/dev/null
    scripts/quietly.sh "$LOG" "$VENV/bin/python" -m pip install --disable-pip-version-check \
        --constraint constraints.txt --editable '.[dev]'
}

if [ "${1:-}" = --can-start ]; then
    is_ready || can_make_environments "$(find_python)"
    exit
fi
# An environment of our own whose interpreter has gone (the system moved to a newer Python) is made anew.
if [ ! -e "$VENV" ] || { [ "$VENV" = .venv ] && ! is_ready; }; then
    make_environment
fi
is_ready || stop "error: $VENV holds no Python 3.10 to 3.13. Name another environment: make VENV=/path/to/environment …"
current=$(fingerprint)
if [ "$current" != "$(cat "$STAMP" 2>/dev/null || true)" ]; then
    install
    printf '%s\n' "$current" >"$STAMP"
fi
