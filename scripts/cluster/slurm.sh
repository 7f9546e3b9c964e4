#!/usr/bin/env bash
# Slurm: sbatch scripts/cluster/slurm.sh RECIPE [--set KEY=VALUE ...], from the toolkit's folder, environment activated.
# Submit it again after a time limit: the run goes on. After a preemption Slurm does that by itself (--requeue).
#SBATCH --job-name=finetune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=finetune-%j.log
set -euo pipefail
if [ $# -eq 0 ]; then
  echo "usage: sbatch scripts/cluster/slurm.sh RECIPE [--set KEY=VALUE ...]" >&2
  exit 2
fi
cd "$SLURM_SUBMIT_DIR"
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export NODES="$SLURM_NNODES" PROCESSES_PER_NODE="$SLURM_GPUS_ON_NODE" MAIN_HOST="${hosts[0]}"
export PORT="$((20000 + SLURM_JOB_ID % 10000))"

# shellcheck disable=SC2016 # SLURM_NODEID is known on the machine, not here
srun --kill-on-bad-exit=1 bash -c 'NODE_RANK="$SLURM_NODEID" exec bash scripts/cluster/node.sh "$@"' node "$@"
