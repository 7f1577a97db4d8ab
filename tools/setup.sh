#!/usr/bin/env bash
# Make .venv ready: torch, the compiled mmcv operators, the OpenMMLab stack and this package. `make setup` runs it.
#
#   PYTHON       the interpreter that .venv is made with (python3)
#   DEVICE       auto, cpu or cuda: the build of torch. auto asks nvidia-smi; cuda is for login nodes without a GPU
#   TORCH_INDEX  where the CPU build of torch is looked for when pip's own indexes do not have it
#
# Any step may die: the next run picks up there. A stamp, left at the very end, makes later runs return at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cd "$(pwd -P)"
unset PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX PIP_REQUIRE_VIRTUALENV
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-auto}
TORCH_INDEX=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
log=.cache/setup.log
build_log=.cache/mmcv-build.log

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: error: %s\n' "$*" >&2
    exit 1
}
pinned() { sed -nE "s/^$1==([^ ;]+).*/\1/p" requirements/constraints.txt; }
in_venv() { .venv/bin/python -c "$@"; }
pip() { .venv/bin/python -m pip --no-input --disable-pip-version-check "$@"; }

# Install at the tested versions. The mark outlives a kill: a half-unpacked package can look installed to pip.
# Byte-compiling is left to the end, where all cores share it.
install() {
    : >.venv/.installing
    pip install --no-compile -c requirements/constraints.txt "$@" >>$log 2>&1 || return 1
    rm -f .venv/.installing
}
must_install() {
    install "$@" || fail "pip: $({ grep ^ERROR $log || tail -n1 $log; } | tail -n1) (all of it: $log)"
}

# --- what is asked for, and whether it is there already ---------------------------------------------------------------
command -v "$PYTHON" >/dev/null ||
    fail "there is no $PYTHON; install Python 3.10 or newer, or name one: make setup PYTHON=/path/to/python3"
# The real interpreter, so that an activated .venv does not become its own parent.
python=$("$PYTHON" -c 'import os, sys
sys.version_info < (3, 10) and sys.exit(1)
print(os.path.realpath(sys.executable))') ||
    fail "$PYTHON is $("$PYTHON" -V 2>&1); Python 3.10 or newer is needed: make setup PYTHON=python3.11"

case $DEVICE in
    auto) if timeout 60 nvidia-smi -L >/dev/null 2>&1; then device=cuda; else device=cpu; fi ;;
    cpu | cuda) device=$DEVICE ;;
    *) fail "DEVICE=$DEVICE is unknown; use auto, cpu or cuda" ;;
esac

nvcc_cuda= # stays empty on a CPU machine, where a toolkit without a driver is of no use
if [ $device = cuda ]; then
    nvcc=${CUDA_HOME:+$CUDA_HOME/bin/nvcc}
    nvcc=${nvcc:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
    nvcc_cuda=$("$nvcc" --version 2>/dev/null | sed -nE 's/.*release ([0-9.]+).*/\1/p') || nvcc_cuda=
fi
fingerprint=$({
    cat tools/setup.sh pyproject.toml hybrid_dense/version.py requirements/*.txt requirements/optional/*.txt
    echo "$PWD $python $("$python" -VV) $device $nvcc_cuda"
} | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()[:12])')
stamp=.venv/.setup-$fingerprint
if [ -e "$stamp" ]; then
    say "up to date (\`make clean setup\` starts over and keeps the built operators)"
    exit 0
fi

mkdir -p .cache
if command -v flock >/dev/null; then
    exec 9>.cache/setup.lock
    flock -n 9 || { say "another set-up, or a build that one left behind, is at work here; waiting" && flock 9; }
    [ ! -e "$stamp" ] || exit 0
fi
: >$log
builder=
trap '[ -z "$builder" ] || kill -- "-$builder" 2>/dev/null' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- .venv ------------------------------------------------------------------------------------------------------------
venv_is_sound() {
    local version='import sys; print(sys.version)'
    [ ! -e .venv/.installing ] && pip --version && [ "$(in_venv "$version")" = "$("$python" -c "$version")" ] &&
        grep -qF "$PWD/.venv/" .venv/bin/pip # a .venv that was moved or copied still points at its old place
}
if [ -e .venv ] && ! venv_is_sound >>$log 2>&1; then
    say ".venv is broken, half-made or of another Python; making it anew"
    rm -rf .venv
fi
if [ ! -e .venv ]; then
    say ".venv with $("$python" -V)"
    "$python" -m venv .venv >>$log 2>&1 || {
        rm -rf .venv
        fail "$python cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"
    }
fi
rm -f .venv/.setup-*
export PATH="$PWD/.venv/bin:$PATH" # torch's extension builder looks for ninja there
must_install --upgrade pip setuptools wheel ninja numpy

# --- torch ------------------------------------------------------------------------------------------------------------
torch_version=$(pinned torch)
# Sets torch_build (2.13.0+cpu) and torch_cuda (13.0, or nothing), without importing torch, which takes seconds.
read_torch() {
    read -r torch_build torch_cuda < <(in_venv 'import importlib.util, runpy
spec = importlib.util.find_spec("torch")
version = runpy.run_path(spec.submodule_search_locations[0] + "/version.py") if spec else {"__version__": "none"}
print(version["__version__"], version.get("cuda") or "")')
}
torch_is_ready() {
    read_torch
    [ "${torch_build%%+*}" = "$torch_version" ] && [ $device = "$([ -n "$torch_cuda" ] && echo cuda || echo cpu)" ]
}
if ! torch_is_ready; then
    pip uninstall -y torch >>$log 2>&1 # or pip would take a CPU build for the CUDA build of the same version
    if [ $device = cuda ]; then
        say "torch $torch_version for CUDA (some GB the first time)"
        must_install "torch==$torch_version"
    else
        say "torch $torch_version, CPU build (200 MB the first time)"
        quick=(--retries 1 --timeout 20)
        install "${quick[@]}" "torch==$torch_version+cpu" ||
            install "${quick[@]}" --extra-index-url "$TORCH_INDEX" "torch==$torch_version+cpu" ||
            {
                say "pip's indexes and $TORCH_INDEX have no CPU build; taking the default torch $torch_version"
                must_install "torch==$torch_version"
            }
    fi
fi
read_torch

# --- the mmcv operators: compiled once for a Python, a torch and a device ---------------------------------------------
operators=cpu
mend="for the GPU install the CUDA ${torch_cuda%%.*} toolkit, set CUDA_HOME and run this again"
if [ $device = cuda ]; then
    if [ -z "$torch_cuda" ]; then
        say "an NVIDIA GPU is wanted, but pip's indexes gave a torch without CUDA: this .venv will run on the CPU"
    elif [ -z "$nvcc_cuda" ]; then
        say "nvcc is missing, so mmcv's operators are built for the CPU only; $mend"
    elif [ "${nvcc_cuda%%.*}" != "${torch_cuda%%.*}" ]; then
        say "nvcc is of CUDA $nvcc_cuda and torch of $torch_cuda, so mmcv's operators are built for the CPU only; $mend"
    else
        operators=cuda
        # Where nvcc itself says it lives: what PATH found may be a link or a wrapper.
        CUDA_HOME=$("$nvcc" --dryrun -x cu /dev/null 2>&1 | sed -nE 's|^#\$ _HERE_=(.*)/bin$|\1|p')
        export CUDA_HOME
    fi
fi
mmcv_version=$(pinned onedl-mmcv)
wheels=.cache/wheels/$(in_venv 'import sys; print("cp{}{}".format(*sys.version_info[:2]))')-torch$torch_build
[ -z "$torch_cuda" ] || [ $operators = cuda ] || wheels=$wheels-cpu-operators
wheel() { find "$wheels" -name "onedl_mmcv-$mmcv_version-*.whl" 2>/dev/null | head -n1; }

build_wheel() {
    command -v "${CXX:-c++}" >/dev/null || fail "there is no C++ compiler; on Debian and Ubuntu: apt-get install g++"
    in_venv 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        fail "Python's headers are missing; on Debian and Ubuntu: apt-get install python3-dev"
    # A compiler process takes up to 2 GB: as many as there are cores and memory for.
    local jobs begun=$SECONDS report=30 progress
    jobs=$(in_venv 'import os
memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
print(max(1, min(cores, memory // 2**31)))')
    say "building mmcv's $operators operators on $jobs cores, once (7 to 15 minutes on 2); log: $build_log"
    # In a process group of its own, to be ended as one; the move comes last, so that $wheels holds whole wheels only.
    set -m
    (
        set -e
        export MMCV_WITH_OPS=1 MAX_JOBS="$jobs" FORCE_CUDA=1
        [ $operators = cuda ] || export FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=
        rm -rf .cache/building
        pip wheel -v --no-build-isolation --no-deps --no-cache-dir -w .cache/building "onedl-mmcv==$mmcv_version"
        mkdir -p "$wheels"
        mv .cache/building/*.whl "$wheels/"
        rmdir .cache/building
    ) >$build_log 2>&1 </dev/null &
    builder=$!
    set +m
    while kill -0 "$builder" 2>/dev/null; do
        sleep 1
        if [ $((SECONDS - begun)) -ge $report ]; then
            progress=$(grep -oE '\[[0-9]+/[0-9]+\]' $build_log | tail -n1) || progress=
            say "  $((report / 60)) min $((report % 60)) s: ${progress:-preparing}"
            report=$((report + 30))
        fi
    done
    wait "$builder" || {
        grep -m3 -E 'error:' $build_log >&2 || tail -n5 $build_log >&2
        builder=
        fail "mmcv's operators did not compile; the whole story is in $build_log"
    }
    builder=
}

install_all() {
    must_install --force-reinstall --no-deps "$(wheel)"
    must_install --no-build-isolation -e '.[mm,tests]'
    # mmdet's dependencies bring two opencv builds into one folder; this one runs without libGL too, so it has to win.
    must_install --force-reinstall --no-deps opencv-python-headless
    # Not left to the first import: under PYTHONDONTWRITEBYTECODE, which many containers set, that would keep nothing.
    # Some packages ship files that are no Python 3, hence `|| true`.
    .venv/bin/python -m compileall -q -j 0 -x '/(tests?|testing)/' .venv/lib >>$log 2>&1 || true
    in_venv "import torch" >>$log 2>&1 ||
        fail "torch does not import: $(tail -n1 $log); \`make clean setup\` starts over"
}
operators_load() { in_venv 'import mmcv.ops' >>$log 2>&1; }

[ -n "$(wheel)" ] || build_wheel
say "mmcv from $wheels, then mmdet, mmseg and this package"
install_all
if ! operators_load; then
    say "the kept wheel does not load here; building it again"
    rm -f "$(wheel)"
    build_wheel
    install_all
    operators_load || fail "mmcv.ops does not import: $(tail -n1 $log)"
fi

: >"$stamp"
say "ready: .venv/bin/hybrid-dense --help says what it does, .venv/bin/hybrid-dense doctor what there is"
