#!/usr/bin/env bash
# Says whether the Slurm lab of the tests can run here, and installs what it is made of; tests/slurm_lab/README.md.
#
#   slurm_packages.sh              fails, and says what is missing and how to get it, unless the lab can run
#   slurm_packages.sh --install    installs what is missing first, as root on Debian or Ubuntu
#
# A Slurm that was installed in another way than by apt is good enough.
set -euo pipefail

PACKAGES=(slurm-wlm slurmdbd slurm-wlm-mysql-plugin munge mariadb-server util-linux bindfs)
COMMANDS=(slurmctld slurmd slurmdbd sbatch sacctmgr munged mariadbd mariadb-install-db unshare nsenter setpriv bindfs)
PATH=$PATH:/usr/sbin:/sbin

missing_parts() {
    local command
    for command in "${COMMANDS[@]}"; do
        command -v "$command" >/dev/null || echo "$command"
    done
    [ -n "$(find /usr/lib /usr/lib64/ -path '*/slurm*/accounting_storage_mysql.so' -print -quit 2>/dev/null)" ] ||
        echo accounting_storage_mysql.so
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    local install=(apt-get install -qq --yes --no-install-recommends "${PACKAGES[@]}")
    echo "Installing Slurm for the tests: apt-get install ${PACKAGES[*]}"
    "${install[@]}" </dev/null >/dev/null 2>&1 || { apt-get update -qq && "${install[@]}" </dev/null >/dev/null; }
}

can_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null
}

if [ "${1:-}" = --install ] && [ -n "$(missing_parts)" ] && can_install; then
    install_packages
fi

missing=$(missing_parts | paste -sd ' ')
if [ -n "$missing" ]; then
    echo "no Slurm lab: $missing not found; install them with: sudo apt-get install ${PACKAGES[*]}" >&2
    exit 1
fi
if ! reason=$(unshare --mount --uts --pid --fork mount -t tmpfs lab /mnt 2>&1); then
    echo "no Slurm lab: it needs root and the right to mount ($reason); try: sudo make test" >&2
    exit 1
fi
if [ ! -w /dev/fuse ]; then
    echo "no Slurm lab: it needs /dev/fuse; try: sudo modprobe fuse, and in a container its option --device /dev/fuse" >&2
    exit 1
fi
