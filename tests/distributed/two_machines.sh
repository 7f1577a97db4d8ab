#!/usr/bin/env bash
# Two "machines" on one: two network namespaces joined by a veth pair, one rank in each, training over gloo. One rank is
# killed in the middle; torchrun restarts the group, and the training goes on from the checkpoint.
#
#   two_machines.sh WORK_DIR CONFIG [arguments of tools/train.py]     needs root, or unshare -Urn
#
# Leaves WORK_DIR/machine0.log and machine1.log; exit code 77 where namespaces are not allowed.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work_dir=$(realpath -m "$1") config=$2
shift 2
here=hd$$

not_allowed() { echo "network namespaces are not allowed here: $1" >&2; exit 77; }
command -v ip >/dev/null || not_allowed "there is no ip (iproute2)"
reason=$(ip netns add "${here}a" 2>&1) || not_allowed "$reason"
clean_up() {
    # shellcheck disable=SC2046
    kill $(jobs -p) 2>/dev/null || true
    wait
    ip netns del "${here}a" 2>/dev/null || true
    ip netns del "${here}b" 2>/dev/null || true
}
trap clean_up EXIT
ip netns add "${here}b"
reason=$(ip link add "${here}a" netns "${here}a" type veth peer name "${here}b" netns "${here}b" 2>&1) || not_allowed "$reason"
for end in a:10.201.7.1 b:10.201.7.2; do
    name=$here${end%%:*}
    ip -n "$name" addr add "${end#*:}/24" dev "$name"
    ip -n "$name" link set "$name" up
    ip -n "$name" link set lo up
done

mkdir -p "$work_dir"
start() { # machine's number, namespace
    GLOO_SOCKET_IFNAME=$2 NNODES=2 NODE_RANK=$1 MASTER_ADDR=10.201.7.1 PORT=29500 JOIN_TIMEOUT=120 OMP_NUM_THREADS=1 \
        CUDA_VISIBLE_DEVICES='' ip netns exec "$2" "$project/tools/dist_train.sh" "$config" 1 --work-dir "$work_dir" "${@:3}" \
        >"$work_dir/machine$1.log" 2>&1 &
}
start 0 "${here}a" "$@"
first=$!
start 1 "${here}b" "$@"
second=$!

# The second machine's rank dies once there is a checkpoint. It is the process whose parent is the launcher.
arguments() { tr '\0' ' ' <"/proc/$1/cmdline"; }
victim=
for _ in $(seq 1200); do
    kill -0 $first 2>/dev/null || break
    if [ -s "$work_dir/last_checkpoint" ]; then
        for pid in $(ip netns pids "${here}b"); do
            [[ $(arguments "$(ps -o ppid= "$pid" | tr -d ' ')") != *tools/elastic.py* ]] || victim=$pid
        done
        break
    fi
    sleep 0.1
done
[ -n "$victim" ] || { echo "nothing was killed: the training ended, or never saved" >&2; exit 1; }
kill -KILL "$victim"
echo "killed rank process $victim on machine 1, with $(cat "$work_dir/last_checkpoint") as the last checkpoint"
code=0
wait $first || code=$?
wait $second || code=$?
exit $code
