#!/usr/bin/env bash
# Says whether there is a Chromium in which the page of a report can be tested, and prints its path; installs it if asked.
#
#   browser_packages.sh              fails, and says how to get one, unless there is a Chromium or Chrome
#   browser_packages.sh --install    installs it first, as root on Debian
#
# $CHROMIUM names one that lies elsewhere.
set -euo pipefail

find_browser() {
    local candidate
    for candidate in ${CHROMIUM:-} chromium chromium-browser google-chrome google-chrome-stable; do
        if "$candidate" --version >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    local install=(apt-get install -qq --yes --no-install-recommends chromium fonts-dejavu-core)
    echo "Installing a browser for the tests: ${install[*]}" >&2
    "${install[@]}" </dev/null >/dev/null 2>&1 || { apt-get update -qq && "${install[@]}" </dev/null >/dev/null; }
}

if [ "${1:-}" = --install ] && ! find_browser >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    install_packages
fi
if ! find_browser; then
    echo "no browser: no Chromium found; install it with: sudo apt-get install chromium (or name one in \$CHROMIUM)" >&2
    exit 1
fi
