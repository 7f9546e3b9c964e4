#!/usr/bin/env bash
# One machine's part of a run on several: node.sh RECIPE [--set KEY=VALUE ...]. slurm.sh, trainjob.yaml and sky.yaml start it
# on each machine with NODES, NODE_RANK, PROCESSES_PER_NODE and MAIN_HOST (PORT if 29500 is taken) in the environment, and
# LAUNCH_CONFIG for another file than multi_node.yaml (Ascend: scripts/accelerate/npu_multinode.yaml).
# The output_dir must be on a disk that all machines share. A run that was cut off goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# The launcher's workers get this long between SIGTERM and SIGKILL: time for a checkpoint. Its own default is 30.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-280}"

exec accelerate launch --config_file "${LAUNCH_CONFIG:-scripts/accelerate/multi_node.yaml}" \
  --num_machines "$NODES" \
  --machine_rank "$NODE_RANK" \
  --num_processes "$((NODES * PROCESSES_PER_NODE))" \
  --main_process_ip "$MAIN_HOST" \
  --main_process_port "${PORT:-29500}" \
  scripts/train.py "$@" --resume auto
