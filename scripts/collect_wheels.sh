#!/usr/bin/env bash
# Collects the wheels of band-sweep and of all it needs into one folder, for a place without internet, and prints the line that
# installs them there. Versions are those of constraints.txt. Pip reads what depends on the version of Python from the one it
# runs in, so the Python it is for has to be here too; the Linux may be another.
#
#   PYTHON   interpreter whose pip downloads; default: the environment of this checkout, else python3, or what --python names
#   PIP_*    read by pip itself: another index (such as that of torch for CPUs), a proxy, a cache
set -euo pipefail

usage='usage: scripts/collect_wheels.sh [--python 3.11] [--platform manylinux_2_28_x86_64] [--extras nwb,matlab] [FOLDER]

Downloads wheels for that version of Python (default: of this one) and that platform into FOLDER (default: wheels).
Torch with CUDA is several GB; PIP_EXTRA_INDEX_URL or PIP_INDEX_URL name the index of the build for CPUs.'

stop() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

version='' platform='' extras='' folder=wheels
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) printf '%s\n' "$usage"; exit ;;
        --python | --platform | --extras)
            [ $# -ge 2 ] || stop "$1 needs a value"
            case $1 in --python) version=$2 ;; --platform) platform=$2 ;; --extras) extras=$2 ;; esac
            shift ;;
        -*) stop "$1 is no option; $usage" ;;
        *) folder=$1 ;;
    esac
    shift
done

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}
version=${version:-$(version_of "$python")}
case $version in
    3.10 | 3.11 | 3.12 | 3.13) ;;
    *) stop "--python must be 3.10, 3.11, 3.12 or 3.13, got $version" ;;
esac
if [ "$(version_of "$python")" != "$version" ] && [ -z "${PYTHON:-}" ]; then
    python=python$version
fi
[ "$(version_of "$python")" = "$version" ] || stop "Python $version is needed on this machine too; name it: PYTHON=/path/to/python$version $0 …"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

# A system with one glibc runs the wheels made for any older one, and each name has to be given.
platform=${platform:-manylinux_2_28_x86_64}
targets=(--platform "$platform")
if [[ $platform =~ ^manylinux_2_([0-9]+)_(.+)$ ]]; then
    for ((minor = BASH_REMATCH[1] - 1; minor >= 5; minor--)); do
        targets+=(--platform "manylinux_2_${minor}_${BASH_REMATCH[2]}")
    done
    targets+=(--platform "manylinux2014_${BASH_REMATCH[2]}" --platform "manylinux1_${BASH_REMATCH[2]}")
fi

cd "$root"
"$python" -m pip wheel --disable-pip-version-check --no-deps --wheel-dir "$folder" .
wheels=("$folder"/band_sweep-*.whl)
wheel=${wheels[${#wheels[@]}-1]}
"$python" -m pip download --disable-pip-version-check --dest "$folder" --only-binary=:all: --python-version "$version" \
    "${targets[@]}" --constraint constraints.txt "$wheel${extras:+[$extras]}"

number=${wheel##*/band_sweep-}
printf '\n%s wheels for Python %s in %s. Take the folder along; there, in an environment of that Python:\n\n' \
    "$(find "$folder" -name '*.whl' | wc -l)" "$version" "$folder"
printf "    pip install --no-index --find-links %s 'band-sweep%s==%s'\n" "$(basename "$folder")" "${extras:+[$extras]}" "${number%%-*}"
