#!/usr/bin/env bash
# Start a tool in N processes through torchrun: dist_launch.sh train|test N ARGUMENTS…
# A process that dies restarts all of them from the last checkpoint; what a restart cannot mend ends the training.
# Environment:
#   NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1), PORT (a free one; 29500 where machines must agree)
#   MAX_RESTARTS (3 for training, 0 for tests)     how often a machine starts its processes again
#   SHUTDOWN_TIMEOUT (120 s)                       how long a signalled training may take to write its checkpoint
#   JOIN_TIMEOUT (600 s)                           how long machines wait for each other
#   PYTHON                                         the interpreter
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tool=$1 processes=$2
shift 2

machines=${NNODES:-1}
if [ "$machines" -eq 1 ]; then
    # A name of this machine that needs no name service; port 0 is a free one.
    meeting=(--rdzv-endpoint="127.0.0.1:${PORT:-0}" --local-addr=127.0.0.1)
    host=1
else
    : "${MASTER_ADDR:?is the address of machine 0, the same on all $machines machines}"
    meeting=(--rdzv-endpoint="$MASTER_ADDR:${PORT:-29500}")
    host=$((${NODE_RANK:-0} == 0))
fi

python=${PYTHON:-$tools/../.venv/bin/python}
[ -x "$python" ] || command -v "$python" >/dev/null || python=python3

# What the processes can stand on: the GPUs; where there are none, the CPU's cores.
read -r gpus cores < <("$python" -c 'import os, torch; print(torch.cuda.device_count(), len(os.sched_getaffinity(0)))')
script=$(basename "$0")
if [ "$gpus" -gt 0 ] && [ "$processes" -gt "$gpus" ]; then
    echo "$script: $processes GPUs asked for, $gpus found; use: tools/dist_$tool.sh … $gpus" >&2
    exit 2
elif [ "$gpus" -eq 0 ] && [ "$processes" -gt "$cores" ]; then
    echo "$script: $processes GPUs asked for, none found; on this CPU with $cores cores use: tools/dist_$tool.sh … $cores" >&2
    exit 2
elif [ "$gpus" -eq 0 ]; then
    echo "$script: no GPU found, $processes CPU processes over gloo" >&2
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores / processes))}
    export MKL_NUM_THREADS=${MKL_NUM_THREADS:-$OMP_NUM_THREADS}
fi

[ "$tool" = train ] && restarts=${MAX_RESTARTS:-3} || restarts=${MAX_RESTARTS:-0}
# With a store that outlives a restart, torch 2.13 reads the addresses of the dead (pytorch issue 135712).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec "$python" "$tools/elastic.py" \
    --nnodes="$machines" --nproc-per-node="$processes" --max-restarts="$restarts" \
    --rdzv-backend=c10d --rdzv-id=hybrid_dense "${meeting[@]}" \
    --rdzv-conf="is_host=$host,join_timeout=${JOIN_TIMEOUT:-600}" \
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout="${SHUTDOWN_TIMEOUT:-120}" \
    "$tools/$tool.py" "$@" --launcher pytorch
