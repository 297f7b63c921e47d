#!/usr/bin/env bash
#SBATCH --job-name=jemb-prepare
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --no-kill
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@60
#SBATCH --output=%x-%j.log
set -euo pipefail

usage() {
    cat <<'END'
Run `jemb prepare` on a Ray cluster that lives as long as a Slurm job.

  sbatch --nodes=4 --cpus-per-task=32 launch/slurm_prepare.sh input=raw output=shards [option=value …]
  salloc --nodes=2 --exclusive launch/slurm_prepare.sh input=raw output=shards [option=value …]
  RAY_ADDRESS=HOST:PORT launch/slurm_prepare.sh input=raw output=shards [option=value …]

Every argument is an option of `jemb prepare`. Activate the environment with jemb first; all nodes must have it, and see
input and output, under the same paths. The first node runs Ray's head and the job itself, the others Ray workers, with
the CPUs and GPUs that Slurm gives the job there. A worker node may die. Whatever ends the job: the same command goes
on where it was; a minute before its time limit, and when it is preempted, the job requeues itself.

Variables:
  RAY_ADDRESS    use this Ray cluster and start none; needs no Slurm
  JOIN_SECONDS   how long to wait for all nodes to join (default 300)

The log of each node's Ray is in jemb-prepare-ray-JOBID/NODE.log beside the job's own.
END
}

fail() {
    echo "slurm_prepare.sh: $1" >&2
    exit 2
}

run() {
    { printf '+' && printf ' %q' "$@" && echo; } >&2
    "$@"
}

check_arguments() {
    local argument output=
    for argument in "$@"; do
        case $argument in
            input=*://* | input=hf:*) ;;
            input=*) [[ -e ${argument#*=} ]] || fail "$argument: there is no such file or folder" ;;
            output=?*) output=$argument ;;
            executor=* | ray.address=*) fail "$argument: this script sets it; leave it out" ;;
        esac
    done
    [[ $output ]] || fail "output=FOLDER is missing (--help shows how to call this)"
    command -v jemb >/dev/null || fail "there is no command 'jemb'; activate the environment that has it"
}

case ${1-} in
    -h | --help) usage && exit ;;
esac
check_arguments "$@"
if [[ ${RAY_ADDRESS-} ]]; then
    run exec jemb prepare "$@" executor=ray "ray.address=$RAY_ADDRESS"
fi
[[ ${SLURM_JOB_ID-} ]] || fail "not in a Slurm job: use sbatch or salloc, or give RAY_ADDRESS=HOST:PORT (--help)"
command -v srun >/dev/null || fail "there is no command 'srun' on this machine"
command -v ray >/dev/null || fail "there is no command 'ray'; pip install 'jemb[ray]'"

join_seconds=${JOIN_SECONDS:-300}
logs=$PWD/jemb-prepare-ray-$SLURM_JOB_ID
scratch=/tmp/jemb-ray-$SLURM_JOB_ID # short, for Ray keeps sockets in there; /tmp/ray belongs to who came first
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts[0]}
steps=() # what runs beside this shell: Ray on the nodes, then the job
requeue=

# A step shares its node with the others; --kill-on-bad-exit=0: one node's end is not the others'.
step=(srun --overlap --kill-on-bad-exit=0)
on_head=("${step[@]}" --nodes=1 --ntasks=1 "--nodelist=$head")

# SIGUSR1 reaches what a step runs, and ends it; SIGTERM makes srun kill the step.
finish() {
    local status=$? signal _
    trap '' TERM INT HUP USR1
    trap - EXIT
    for signal in USR1 TERM; do
        kill -"$signal" "${steps[@]}" 2>/dev/null || true
        for _ in {1..20}; do
            [[ $(jobs -pr) ]] || break
            sleep 1
        done
    done
    if [[ $requeue ]]; then
        run scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$status"
}

# The address by which the other nodes reach the first, two free ports there, and a secret.
choose_address() {
    "${on_head[@]}" python3 -c '
import secrets, socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to_last, socket.socket() as one, socket.socket() as two:
    to_last.connect((sys.argv[1], 9))  # sends nothing
    one.bind(("", 0)), two.bind(("", 0))
    print(to_last.getsockname()[0], one.getsockname()[1], two.getsockname()[1], secrets.token_hex(32))
' "${hosts[-1]}"
}

# A node's shell knows its CPUs, and cleans up when it is told to end. Not `ray stop`, which ends every Ray that this user
# has on the node: `ray start --block` takes its own along, also when killed. Ports: whatever the system has free.
# shellcheck disable=SC2016
on_node='scratch=$1 && shift
trap "kill -KILL \$ray; sleep 1; rm -rf \$scratch || rm -rf \$scratch; exit 0" USR1
ray start --num-cpus="$SLURM_CPUS_ON_NODE" --temp-dir="$scratch" --min-worker-port=0 --max-worker-port=0 \
    --dashboard-agent-listen-port=0 --disable-usage-stats --block "$@" &
ray=$!
wait "$ray"'

start_ray() { # STEP… -- OPTION-OF-RAY…
    local command=()
    while [[ $1 != -- ]]; do
        command+=("$1")
        shift
    done
    shift
    echo "+ ${command[*]} ray start $*" >&2
    "${command[@]}" --output="$logs/%N.log" --error="$logs/%N.log" bash -c "$on_node" jemb-ray "$scratch" "$@" &
    steps+=($!)
}

wait_for_nodes() { # NUMBER
    "${on_head[@]}" python3 -c '
import logging, sys, time, ray
address, wanted, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
end, joined = time.monotonic() + seconds, 0
while joined < wanted:
    try:
        if not ray.is_initialized():
            ray.init(address=address, logging_level=logging.CRITICAL, log_to_driver=False)
        joined = sum(node["Alive"] for node in ray.nodes())
    except (ConnectionError, RuntimeError, ValueError):
        pass  # the head is not up yet
    if joined < wanted and time.monotonic() > end:
        sys.exit(f"{joined} of {wanted} nodes joined the Ray cluster at {address} within {seconds:g} s (JOIN_SECONDS)")
    time.sleep(0.5)
' "$address" "$1" "$join_seconds" &
    local joining=$! started
    while kill -0 "$joining" 2>/dev/null; do
        for started in "${steps[@]}"; do
            kill -0 "$started" 2>/dev/null || {
                kill "$joining" 2>/dev/null || true
                return 1
            }
        done
        sleep 1
    done
    wait "$joining"
}

no_ray() {
    tail -n 5 "$logs"/*.log >&2
    echo "slurm_prepare.sh: Ray did not start on all of ${hosts[*]}; the nodes' logs are in $logs" >&2
    exit 1
}

trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'exit 129' HUP
trap 'requeue=yes; exit 0' USR1 # the time limit is near

mkdir -p "$logs"
read -r ip port client_port token < <(choose_address) || fail "cannot start a step on $head"
address=$ip:$port
# Whoever reaches a Ray without a token runs what he likes as its user.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$token
start_ray "${on_head[@]}" -- --head --node-ip-address="$ip" --port="$port" \
    --ray-client-server-port="$client_port" --include-dashboard=false
wait_for_nodes 1 || no_ray # before the others, which wait for it less patiently
others=$((${#hosts[@]} - 1))
if ((others)); then
    start_ray "${step[@]}" --nodes="$others" --ntasks="$others" --exclude="$head" -- --address="$address"
    wait_for_nodes "${#hosts[@]}" || no_ray
fi
echo "Ray runs on ${#hosts[@]} nodes at $address" >&2
run "${on_head[@]}" jemb prepare "$@" executor=ray "ray.address=$address" &
job=$!
steps+=("$job")
wait "$job"
