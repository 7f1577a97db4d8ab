#!/usr/bin/env bash
# Train under Slurm: [GPUS=8 GPUS_PER_NODE=8] tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: $0 PARTITION JOB_NAME CONFIG [arguments of tools/train.py]" >&2; exit 2; }
exec "$(dirname "$0")/slurm_launch.sh" train "$@"
