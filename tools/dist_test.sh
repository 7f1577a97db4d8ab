#!/usr/bin/env bash
# Evaluate in N processes on this machine: tools/dist_test.sh CONFIG CHECKPOINT N [arguments of tools/test.py]
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: $0 CONFIG CHECKPOINT N [arguments of tools/test.py]" >&2; exit 2; }
exec "$(dirname "$0")/dist_launch.sh" test "$3" "$1" "$2" "${@:4}"
