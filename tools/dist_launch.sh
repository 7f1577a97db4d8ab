#!/usr/bin/env bash
# Start a tool in N processes through torchrun: dist_launch.sh train|test N ARGUMENTS…
# Environment: NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1), PYTHON, PORT (a free one; 29500 where machines must agree).
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tool=$1 processes=$2
shift 2

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

[ "${NNODES:-1}" -eq 1 ] || PORT=${PORT:-29500}
port=${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')}
exec "$python" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$processes" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="$port" \
    "$tools/$tool.py" "$@" --launcher pytorch
