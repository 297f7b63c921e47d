#!/usr/bin/env bash
#SBATCH --job-name=jemb-train
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
set -euo pipefail

usage() {
    cat <<'END'
Run `jemb train` as a Slurm job: one process a task, one task a GPU, on one node or many.

  sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=8 launch/slurm_train.sh \
      shards=shards output=runs/pairs [option=value …]
  launch/slurm_train.sh --nodes=2 --ntasks-per-node=8 … shards=shards output=runs/pairs [option=value …] dry_run=true
  launch/slurm_train.sh --nodes=2 --ntasks-per-node=8 … --configs=FILE shards=shards [option=value …]

Arguments that begin with -- are options of sbatch, all others of `jemb train`. Started outside a job, the script checks
them, shows batch arithmetic, plan and memory, and submits itself; with dry_run=true it submits nothing. Inside a job
(by sbatch, or in a shell of salloc) it trains. Activate the environment with jemb first; all nodes must have it, and
see shards and output, under the same paths. Without output= the run folder is runs/JOBID, in an array runs/JOBID-TASK.

--configs=FILE makes a job array, a task for each line of FILE: further options of `jemb train`, quoted as for a shell.
Empty lines and those that begin with # are left out. With sbatch itself: --array=0-3 before the script's name.

First of all one task a node looks for what would go wrong there (python -m jemb.app.preflight) and says `node n1: …`.

The job goes back into the queue by itself, and then goes on after the last step it saved,
- when it is preempted, or its node fails (by Slurm's own --requeue);
- 180 s before its time limit, or on `scancel --signal=USR1 JOBID`, with --batch or without: it saves first. The 180 s
  must be enough for a step and a checkpoint: --signal=B:USR1@SECONDS;
- when a process died or lost the others, if a checkpoint was written since the job started.
Where it was asked to stop before its first step there is nothing to save: it begins again, once. It does not go back
when it has finished, after `scancel JOBID` or SIGTERM to the processes alone, after wrong input, or where it came no
step further.

Variables:
  MASTER_ADDR        where the processes meet (default: the name of the job's first node)
  MASTER_PORT        the port there (default: from the job's number)
  PREFLIGHT          no: leave the checks out (default yes)
  PREFLIGHT_SECONDS  how long the nodes wait for each other in the checks (default 120)

Each process writes to OUTPUT/logs/JOBID.RESTARTS/RANK.log, or jemb-train-JOBID.RESTARTS/RANK.log if OUTPUT is a URL.
END
}

fail() {
    echo "slurm_train.sh: $1" >&2
    exit 2
}

show() {
    { printf '+' && printf ' %q' "$@" && echo; } >&2
}

run() {
    show "$@"
    "$@"
}

# The value of the last `NAME=` among the further arguments.
value_of() { # NAME ARGUMENT…
    local name=$1 argument value=
    shift
    for argument in "$@"; do
        [[ $argument != "$name="* ]] || value=${argument#*=}
    done
    echo "$value"
}

check_number() { # NAME VALUE
    [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "$1=$2: wanted a number above 0"
}

check_arguments() {
    local shards
    shards=$(value_of shards "${overrides[@]}")
    [[ $shards || " ${overrides[*]}" == *' experiment='* ]] || fail "shards=FOLDER is missing (see --help)"
    [[ -z $shards || $shards == *://* || -d $shards ]] || fail "shards=$shards: there is no such folder"
    [[ -z ${MASTER_PORT-} ]] || check_number MASTER_PORT "$MASTER_PORT"
    check_number PREFLIGHT_SECONDS "${PREFLIGHT_SECONDS:=120}"
    command -v python >/dev/null || fail "there is no command 'python'; activate the environment that has jemb"
    python -c 'import jemb' 2>/dev/null || fail "$(command -v python) has no jemb; activate the environment that has it"
}

read_configs() {
    [[ -r $configs ]] || fail "--configs=$configs: there is no such file"
    mapfile -t lines < <(grep -Ev '^[[:space:]]*(#|$)' "$configs")
    ((${#lines[@]})) || fail "--configs=$configs: there are no options in it"
}

add_line() { # NUMBER: its words are options like those given
    local words
    (($1 < ${#lines[@]})) || fail "--configs=$configs has ${#lines[@]} lines, counted from 0; there is none for task $1"
    mapfile -t words < <(xargs -n1 printf '%s\n' <<<"${lines[$1]}")
    overrides+=("${words[@]}")
}

# Outside a job: show what the job would do, which refuses what is wrong, and submit it.
submit() {
    local nodes per_node tasks command=(sbatch "${options[@]}")
    command -v sbatch >/dev/null || fail "there is no command 'sbatch' on this machine (launch/torchrun.sh needs none)"
    nodes=$(value_of --nodes "${options[@]}")
    per_node=$(value_of --ntasks-per-node "${options[@]}")
    tasks=$(value_of --ntasks "${options[@]}")
    check_number --nodes "${nodes:=1}"
    check_number --ntasks-per-node "${per_node:=1}"
    check_number --ntasks "${tasks:=$((nodes * per_node))}"
    if [[ $configs ]]; then
        read_configs
        [[ $(value_of --array "${options[@]}") ]] || command+=("--array=0-$((${#lines[@]} - 1))")
        command+=("$0" "--configs=$configs" "${overrides[@]}")
        add_line 0
    else
        command+=("$0" "${overrides[@]}")
    fi
    check_arguments
    [[ $(value_of output "${overrides[@]}") ]] || overrides+=(output=runs/JOBID)
    JEMB_COMMAND=$(printf '%q ' "${command[@]}") WORLD_SIZE=$tasks \
        python -m jemb.app.train "${overrides[@]}" dry_run=true
    [[ $dry_run ]] || run "${command[@]}"
}

# The last step of which there is a checkpoint.
saved() {
    local folders=("$folder"/checkpoints/step-????????) last
    last=${folders[-1]##*-}
    [[ $last == *[!0-9]* ]] && echo 0 || echo $((10#$last))
}

# The exit code of a process of this shell, once it has one.
await() {
    while kill -0 "$1" 2>/dev/null; do
        wait "$1" || true # a signal to this shell interrupts the waiting
    done
    wait "$1"
}

folder_of='import sys; from jemb.mirror import mirror_of, to_local
print(getattr(mirror_of(sys.argv[1]), "folder", to_local(sys.argv[1])))'

# Inside a job: check the nodes, train, and go back into the queue where that leads further.
train() {
    local before after code=0 logs hosts command folder name=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}
    [[ -z ${options[*]-} ]] || fail "${options[0]}: options of sbatch stand before the script's name"
    if [[ $configs ]]; then
        [[ ${SLURM_ARRAY_TASK_ID-} ]] || fail "--configs=$configs needs a job array: sbatch --array=0-N …"
        read_configs
        add_line "$SLURM_ARRAY_TASK_ID"
    fi
    check_arguments
    output=$(value_of output "${overrides[@]}")
    if [[ -z $output ]]; then # decided here, for all processes and all restarts
        output=runs/$name${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}
        overrides+=("output=$output")
    fi
    folder=$output logs=$output/logs/$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
    if [[ $output == *://* ]]; then # works in a folder of the first node, which is this one
        folder=$(python -c "$folder_of" "$output")
        logs=jemb-train-$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
    fi
    mkdir -p "$logs" || fail "output=$output: $logs cannot be made"

    mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    # Not 10002 to 19999, which Ray gives its workers, nor 32768 and above, which the system gives to anybody.
    export MASTER_ADDR=${MASTER_ADDR:-${hosts[0]}} MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
    if [[ ${SLURM_CPUS_PER_TASK-} ]]; then # which srun does not pass on by itself
        export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}
    fi
    trap 'asked=yes; [[ -z $step ]] || kill -USR1 "$step" 2>/dev/null || true' USR1

    if [[ ${PREFLIGHT:-yes} != no ]]; then
        export PREFLIGHT_NODES="${hosts[*]}" PREFLIGHT_TASKS=$SLURM_TASKS_PER_NODE PREFLIGHT_LOGS=$logs PREFLIGHT_SECONDS
        run env -u SLURM_GPUS_PER_TASK -u SLURM_TRES_PER_TASK TORCH_CPP_LOG_LEVEL=ERROR srun --nodes="${#hosts[@]}" --ntasks="${#hosts[@]}" \
            --ntasks-per-node=1 --kill-on-bad-exit=0 python -m jemb.app.preflight "${overrides[@]}" || exit
    fi
    before=$(saved)
    command=(srun --kill-on-bad-exit=1 --output="$logs/%t.log" --error="$logs/%t.log"
        python -m jemb.app.train "${overrides[@]}")
    show "${command[@]}"
    "${command[@]}" & # not by `run`: this shell passes signals on to srun itself
    step=$!
    [[ -z $asked ]] || kill -USR1 "$step" # asked during the checks
    await "$step" || code=$?
    after=$(saved)
    ((code == 0)) || awk '!/^  / {on = /^jemb train:/} on && !seen[$0]++' "$logs"/*.log | head -n 20 >&2 || true
    ((after <= before)) || rm -f "${logs%.*}.no-step"
    if grep -q '^  "status": "finished"' "$folder/run.json" 2>/dev/null && ((code == 0)); then
        echo "finished; the run is in $output" >&2
    elif ((code == 2)); then
        echo "wrong input; what the processes say is in $logs" >&2
        exit 2
    elif ((after > before)) && { ((code)) || [[ $asked ]] || told USR1 || preempted; }; then
        echo "going on from step $after in a next start of this job" >&2
        run scontrol requeue "$SLURM_JOB_ID"
    elif ((after > before)); then
        echo "stopped after step $after; the same command goes on from there" >&2
    elif [[ ! -e ${logs%.*}.no-step ]] && { [[ $asked ]] || told USR1 || told TERM || preempted; }; then
        touch "${logs%.*}.no-step" # a second time it would be so for ever
        echo "asked to stop before a first step; beginning again in a next start of this job" >&2
        run scontrol requeue "$SLURM_JOB_ID"
    else
        echo "ended without a step further than step $before; what the processes say is in $logs" >&2
        exit $((code ? code : 1))
    fi
}

# Whether the processes say that they were asked to stop by this signal, which the shell may not have got.
told() { # USR1 or TERM
    # 138, 143: before it listened it was killed by SIGUSR1, or by srun's SIGTERM after another task had been
    [[ $1 == USR1 && $code =~ ^(138|143)$ ]] || grep -qs "asked by SIG$1" "$logs"/*.log
}

preempted() {
    scontrol --oneliner show job "$SLURM_JOB_ID" | grep -q ' PreemptTime=[0-9]'
}

options=() overrides=() configs='' dry_run='' asked='' step=''
for argument in "$@"; do
    case $argument in
        -h | --help) usage && exit ;;
        --configs=*) configs=${argument#*=} ;;
        --config-dir=* | --debug) overrides+=("$argument") ;;
        -*) options+=("$argument") ;;
        dry_run=*) dry_run=${argument#dry_run=false} ;;
        *) overrides+=("$argument") ;;
    esac
done
if [[ -z ${SLURM_JOB_ID-} ]]; then
    submit
elif [[ $dry_run ]]; then
    check_arguments
    WORLD_SIZE=${SLURM_NTASKS:-1} exec python -m jemb.app.train "${overrides[@]}" dry_run=true
else
    train
fi
