#!/usr/bin/env bash
set -euo pipefail

usage() {
    cat <<'END'
Run `jemb train` in several processes, on this machine or, started on each of them, on several.

  launch/torchrun.sh shards=shards output=runs/pairs [option=value …]
  NNODES=2 HEAD_NODE=n0 launch/torchrun.sh shards=shards output=runs/pairs [option=value …]

Every argument is an option of `jemb train`; dry_run=true shows what would be done. Activate the environment with jemb
first. All machines see shards and output; on each of them the same command is given, at about the same time.

Variables:
  NNODES          machines (default 1); MIN:MAX lets the job go on with fewer, then from the last checkpoint
  NPROC_PER_NODE  processes on this machine (default: one for each GPU, without GPUs 1)
  HEAD_NODE       name or address of the first machine, for NNODES above 1
  RDZV_ENDPOINT   the same with a port, HOST:PORT (default HEAD_NODE:29400)
  RDZV_ID         what tells this job from another at the same endpoint (default jemb)
  RDZV_CONF       more for torchrun's --rdzv-conf, for instance is_host=1,join_timeout=60
  LOCAL_ADDR      address by which the others reach this machine, where its host name does not lead there
  MAX_RESTARTS    how often all processes are started anew, from the last checkpoint, when one dies (default 0)

Where the wrong network is taken, GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the right one (see `ip address`).
END
}

fail() {
    echo "torchrun.sh: $1" >&2
    exit 2
}

run() {
    { printf '+' && printf ' %q' "$@" && echo; } >&2
    "$@"
}

check_number() { # NAME VALUE PATTERN WANTED
    [[ $2 =~ ^$3$ ]] || fail "$1=$2: wanted $4"
}

check_arguments() {
    local argument given=' '
    for argument in "$@"; do
        given+="${argument%%=*} "
        case $argument in
            shards=*://*) ;;
            shards=*) [[ -d ${argument#*=} ]] || fail "$argument: there is no such folder" ;;
        esac
    done
    [[ $given == *' experiment '* || $given == *' shards '* ]] || fail "shards=FOLDER is missing (see --help)"
    [[ $given == *' experiment '* || $given == *' output '* ]] || fail "output=FOLDER is missing (see --help)"
    command -v python >/dev/null || fail "there is no command 'python'; activate the environment that has jemb"
    python -c 'import jemb' 2>/dev/null || fail "$(command -v python) has no jemb; activate the environment that has it"
}

case ${1-} in
    -h | --help) usage && exit ;;
esac
nodes=${NNODES:-1}
check_number NNODES "$nodes" '[1-9][0-9]*(:[1-9][0-9]*)?' "a number, or MIN:MAX"
[[ -z ${NPROC_PER_NODE-} ]] || check_number NPROC_PER_NODE "$NPROC_PER_NODE" '[1-9][0-9]*' "a number above 0"
check_number MAX_RESTARTS "${MAX_RESTARTS:-0}" '[0-9]+' "a number"
endpoint=${RDZV_ENDPOINT:-${HEAD_NODE:+$HEAD_NODE:29400}}
if [[ $nodes != 1 ]]; then
    [[ $endpoint ]] || fail "NNODES=$nodes needs HEAD_NODE=HOST or RDZV_ENDPOINT=HOST:PORT"
    check_number RDZV_ENDPOINT "$endpoint" '.+:[0-9]+' "HOST:PORT"
fi
check_arguments "$@"
processes=${NPROC_PER_NODE:-$(python -c 'import torch; print(torch.cuda.device_count() or 1)')}

command=(python -m torch.distributed.run --nproc-per-node "$processes" --max-restarts "${MAX_RESTARTS:-0}")
if [[ $nodes == 1 ]]; then
    command+=(--standalone)
else
    command+=(--nnodes "$nodes" --rdzv-backend c10d --rdzv-endpoint "$endpoint" --rdzv-id "${RDZV_ID:-jemb}")
fi
[[ -z ${RDZV_CONF-} ]] || command+=(--rdzv-conf "$RDZV_CONF")
[[ -z ${LOCAL_ADDR-} ]] || command+=(--local-addr "$LOCAL_ADDR")
command+=(-m jemb.app.train "$@")

if [[ " $* " == *' dry_run=true '* ]]; then
    JEMB_COMMAND=$(printf '%q ' "${command[@]}")
    export JEMB_COMMAND WORLD_SIZE=$((${nodes##*:} * processes))
    exec python -m jemb.app.train "$@"
fi
run "${command[@]}"
