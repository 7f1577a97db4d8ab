#!/usr/bin/env bash
# Start a tool under Slurm: slurm_launch.sh train|test PARTITION JOB_NAME ARGUMENTS…
# Environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS, PORT (29500), PYTHON.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tool=$1 partition=$2 job=$3
shift 3
command -v srun >/dev/null || { echo "$(basename "$0"): srun is not here; without Slurm use tools/dist_$tool.sh" >&2; exit 2; }

gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
[ "$per_node" -le "$gpus" ] || per_node=$gpus
# Each task asks Slurm itself for the first node: the address is only known inside the allocation.
# shellcheck disable=SC2016,SC2086
exec srun -p "$partition" --job-name="$job" --gres=gpu:"$per_node" --ntasks="$gpus" --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    bash -c 'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) MASTER_PORT='"${PORT:-29500}"'
             exec "$@" --launcher slurm' \
    _ "${PYTHON:-python}" -u "$tools/$tool.py" "$@"
