#!/usr/bin/env bash
# Train in N processes on this machine: tools/dist_train.sh CONFIG N [arguments of tools/train.py]
# One a GPU; without a GPU, CPU processes over gloo. Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 CONFIG N [arguments of tools/train.py]" >&2; exit 2; }
exec "$(dirname "$0")/dist_launch.sh" train "$2" "$1" "${@:3}"
