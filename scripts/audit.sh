#!/usr/bin/env bash
# Looks up the pinned dependencies among known vulnerabilities (pip-audit): 0 none is known, 1 some are, 3 nobody could
# be asked, because no source of advisories can be reached from here. Needs PyPI, or with AUDIT=osv the service osv.dev.
set -euo pipefail
cd "$(dirname "$0")/.."

BIN=${VENV:-.venv}/bin
AUDIT=${AUDIT:-pypi}
"$BIN/python" -c 'import pip_audit' 2>/dev/null || "$BIN/python" -m pip install --quiet pip-audit
report=$(mktemp)
trap 'rm -f "$report"' EXIT
if ! timeout 600 "$BIN/python" -m pip_audit --skip-editable --progress-spinner off --vulnerability-service "$AUDIT" \
    --format json --output "$report" 2>"$report.said"; then
    tail -n 3 "$report.said" >&2
fi
rm -f "$report.said"
"$BIN/python" - "$report" <<'PYTHON'
import json
import sys

try:
    found = json.load(open(sys.argv[1]))["dependencies"]
except (OSError, ValueError, KeyError):
    found = []
asked = [entry for entry in found if "skip_reason" not in entry]
bad = {entry["name"]: [each["id"] for each in entry["vulns"]] for entry in asked if entry["vulns"]}
if not asked:
    print("no source of advisories can be reached from here: nothing was audited; try where PyPI or osv.dev can be")
    sys.exit(3)
print(f"{len(asked)} packages looked up, {len(found) - len(asked)} unknown there, {len(bad)} with known vulnerabilities")
for name, ids in bad.items():
    print(f"{name}: {', '.join(ids)}")
sys.exit(1 if bad else 0)
PYTHON
