#!/usr/bin/env bash
# quietly.sh LOG COMMAND…: runs a command with its output in LOG, showing where it stands: one line that is written
# over in a terminal, a line every half minute elsewhere. If the command fails, prints the end of LOG and fails alike.
set -uo pipefail

log=$1
shift
"$@" >"$log" 2>&1 </dev/null &
command_pid=$!
trap 'kill "$command_pid" 2>/dev/null; exit 130' INT TERM

is_terminal=0
[ -t 1 ] && is_terminal=1
next_line=30
width=$(tput cols 2>/dev/null || echo 80)
while kill -0 "$command_pid" 2>/dev/null; do
    sleep 1
    newest=$(grep -v '^ ' "$log" | tail -n 1 | tr -d '\r')  # pip indents the details of a step
    line=$(printf '  %4d s  %s' "$SECONDS" "$newest")
    if [ "$is_terminal" = 1 ]; then
        printf '\r\033[K%s' "${line:0:$((width - 1))}"
    elif [ "$SECONDS" -ge "$next_line" ]; then
        echo "${line:0:110}"
        next_line=$((SECONDS + 30))
    fi
done
wait "$command_pid"
status=$?
[ "$is_terminal" = 1 ] && printf '\r\033[K'
if [ "$status" != 0 ]; then
    {
        echo "error: this failed after $SECONDS s with status $status: $*"
        tail -n 20 "$log" | sed 's/^/  | /'
        echo "All of it: $log"
    } >&2
    exit "$status"
fi
printf '  done in %d s\n' "$SECONDS"
