#!/usr/bin/env bash
# Runs jaxperturb on all nodes of a Slurm allocation: starts Ray on each, joins it, and stops it at the end.
#
#   sbatch --nodes=4 --ntasks-per-node=1 --cpus-per-task=16 --time=8:00:00 scripts/slurm_ray.sh sweep --draws=100 --out=runs/big
#
# Words after the script's name are those of jaxperturb; the environment that has it must be active when sbatch is called.
# Ask for GPUs as usual (--gpus-per-node=4). Two minutes before the time is up the run is told to store what it has;
# the same command in another job continues it.
#SBATCH --signal=B:TERM@120
set -euo pipefail

cpus=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}
port=$((20000 + SLURM_JOB_ID % 10000)) # another job may share the node
folder=/tmp/jp-slurm-$SLURM_JOB_ID
export SRUN_CPUS_PER_TASK=$cpus RAY_USAGE_STATS_ENABLED=0
# Who else is on these nodes must not reach this Ray.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
on() { srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" "${@:2}"; }
read -r ip _ < <(on "${nodes[0]}" hostname --ip-address)

started=()
stop() {
  trap - EXIT
  [ ${#started[@]} -eq 0 ] || kill "${started[@]}" 2>/dev/null || true
  wait
  for node in "${nodes[@]}"; do on "$node" rm -rf "$folder" || true; done
}
trap stop EXIT

start() { # node, options of 'ray start'
  # srun itself, and not a function around it, gets the signal to stop.
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" \
    ray start "${@:2}" --num-cpus="$cpus" --block >"slurm-$SLURM_JOB_ID-ray-$1.log" 2>&1 &
  started+=($!)
}
start "${nodes[0]}" --head --node-ip-address="$ip" --port="$port" --temp-dir="$folder" --include-dashboard=false
for node in "${nodes[@]:1}"; do start "$node" --address="$ip:$port"; done

# All of them, for at most five minutes.
python - "$ip:$port" "${#nodes[@]}" <<'PYTHON'
import logging, sys, time
import ray

until = time.monotonic() + 300
while True:
    try:
        ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.CRITICAL)
        break
    except (ConnectionError, RuntimeError):
        if time.monotonic() > until:
            sys.exit(f"no Ray at {sys.argv[1]}; see the slurm-*-ray-*.log files")
        time.sleep(2)
while (found := sum(node["Alive"] for node in ray.nodes())) < int(sys.argv[2]):
    if time.monotonic() > until:
        sys.exit(f"Ray runs on {found} of {sys.argv[2]} nodes; see the slurm-*-ray-*.log files")
    time.sleep(1)
PYTHON

jaxperturb "$@" --cluster="$ip:$port" &
run=$!
trap 'kill -TERM $run' TERM
status=0
wait $run || status=$?
# A trap ends the first wait before the run has ended.
while kill -0 $run 2>/dev/null; do
  status=0
  wait $run || status=$?
done
exit $status
