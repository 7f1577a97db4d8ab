#!/usr/bin/env bash
# Start a tool under Slurm: slurm_launch.sh train|test PARTITION JOB_NAME ARGUMENTS…
#
# A training is submitted with sbatch (only batch jobs can be requeued) and prints the job's number; a test runs in the
# terminal. Two minutes before its time ends, or when it is preempted, a training writes its checkpoint, ends with exit
# code 143, is put into the queue again and goes on. When a process died, all are started again from the checkpoint.
#
# Environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), PORT (29500), PYTHON, MAX_RESTARTS (3),
# SBATCH_ARGS (--time=24:00:00 --account=…), SRUN_ARGS.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tool=$1 partition=$2 job=$3
script=$(basename "$0")
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-8}
[ "$per_node" -le "$gpus" ] || per_node=$gpus
resources=(-p "$partition" --job-name="$job" --gres=gpu:"$per_node" --ntasks="$gpus" --ntasks-per-node="$per_node"
    --cpus-per-task="${CPUS_PER_TASK:-5}")

command -v srun >/dev/null || { echo "$script: srun is not here; without Slurm use tools/dist_$tool.sh" >&2; exit 2; }
if [ "$tool" = train ] && [ -z "${SLURM_JOB_ID:-}" ]; then
    # Wrapped, because Slurm runs a copy of a script, from where tools/ is not. Without B: the signal reaches the ranks.
    # shellcheck disable=SC2086
    exec sbatch "${resources[@]}" --requeue --open-mode=append --signal=USR1@120 ${SBATCH_ARGS:-} \
        --wrap="$(printf '%q ' "$tools/slurm_launch.sh" "$@")"
fi
shift 3

# srun reports the highest exit code of all ranks, and those that it ends because one failed count too, as 128 + signal.
# So ranks are made to say, in this order: 10 stopped on a signal, 100 failed, 150 + code ended by decision. No exec: the
# shell has to wait for that, and with a trap that does nothing it outlives the signal, while the rank begins with its
# own handlers. Each rank asks Slurm itself for the first node: the address is only known inside the allocation.
# shellcheck disable=SC2016
rank='trap : TERM USR1
      export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) MASTER_PORT='"${PORT:-29500}"'
      code=0
      "$@" --launcher slurm || code=$?
      case $code in
          0) ;; 143) code=10 ;; 1) code=100 ;; 130) code=250 ;; *) [ $code -ge 100 ] || code=$((150 + code)) ;;
      esac
      exit $code'
python=${PYTHON:-$tools/../.venv/bin/python}
[ -x "$python" ] || command -v "$python" >/dev/null || python=python
# Inside a job its own options hold.
[ -z "${SLURM_JOB_ID:-}" ] || resources=()

restarts=0
[ "$tool" = test ] || restarts=${MAX_RESTARTS:-3}
while :; do
    code=0
    # shellcheck disable=SC2086
    srun "${resources[@]}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        bash -c "$rank" _ "$python" -u "$tools/$tool.py" "$@" || code=$?
    case $code in
        0) exit 0 ;;
        10) break ;;
        250) exit 130 ;; # Ctrl-C
        1[5-9]? | 2[0-4]?) exit $((code - 150)) ;;
    esac
    if [ $restarts -eq 0 ]; then
        [ $code -ne 100 ] || code=1
        exit $code
    fi
    restarts=$((restarts - 1))
    export HYBRID_DENSE_RESTARTED=1
    echo "$script: a rank failed; starting all of them again, $restarts times more after this" >&2
done

if [ "$tool" = train ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    echo "$script: stopped on a signal; job $SLURM_JOB_ID goes back into the queue" >&2
    scontrol requeue "$SLURM_JOB_ID" || echo "$script: it could not; start it again with --resume" >&2
fi
exit 143
