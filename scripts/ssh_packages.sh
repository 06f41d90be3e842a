#!/usr/bin/env bash
# Says whether the tests of band-sync can run here, and installs what they need: an sshd of their own on loopback, and rsync.
#
#   ssh_packages.sh              fails, and says what is missing and how to get it, unless they can run
#   ssh_packages.sh --install    installs what is missing first, as root on Debian or Ubuntu
set -euo pipefail

PACKAGES=(openssh-client openssh-server rsync)
COMMANDS=(ssh ssh-keygen sshd rsync)
PATH=$PATH:/usr/sbin:/sbin

missing_commands() {
    local command
    for command in "${COMMANDS[@]}"; do
        command -v "$command" >/dev/null || echo "$command"
    done
}

if [ "${1:-}" = --install ] && [ -n "$(missing_commands)" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    install=(apt-get install -qq --yes --no-install-recommends "${PACKAGES[@]}")
    echo "Installing ssh and rsync for the tests: apt-get install ${PACKAGES[*]}"
    # The tests start an sshd of their own: the system's, which the package would start, is neither needed nor wanted.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    "${install[@]}" </dev/null >/dev/null 2>&1 || { apt-get update -qq && "${install[@]}" </dev/null >/dev/null; }
fi

missing=$(missing_commands | paste -sd ' ')
if [ -n "$missing" ]; then
    echo "no sshd for tests: $missing not found; install them with: sudo apt-get install ${PACKAGES[*]}" >&2
    exit 1
fi
