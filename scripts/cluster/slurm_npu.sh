#!/usr/bin/env bash
# Slurm with Ascend machines: sbatch scripts/cluster/slurm_npu.sh RECIPE [--set KEY=VALUE ...], environment activated.
# Slurm knows NPUs only as a resource that the site has named (npu here), asked for a whole machine at a time: it tells the job
# no number, and hides no device. Atlas A3: sbatch --gres=npu:16 --export=ALL,NPUS_PER_NODE=16 ...
# HCCL_SOCKET_IFNAME, exported before sbatch, where a machine has several networks. Everything else is as in slurm.sh.
#SBATCH --job-name=finetune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gres=npu:8
#SBATCH --cpus-per-task=64
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=finetune-%j.log
cann="${CANN_SET_ENV:-/usr/local/Ascend/ascend-toolkit/set_env.sh}"
if [ ! -r "$cann" ]; then
  echo "no CANN at $cann; set CANN_SET_ENV to its set_env.sh" >&2
  exit 2
fi
# shellcheck source=/dev/null
source "$cann" # srun hands it on to every machine; before set -eu, as it reads variables that need not be set
set -euo pipefail
export HCCL_CONNECT_TIMEOUT="${HCCL_CONNECT_TIMEOUT:-600}" # seconds; a large base loads at different speed
export LAUNCH_CONFIG=scripts/accelerate/npu_multinode.yaml
export SLURM_GPUS_ON_NODE="${NPUS_PER_NODE:-8}"
exec bash "$SLURM_SUBMIT_DIR/scripts/cluster/slurm.sh" "$@"
