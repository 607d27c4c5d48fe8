#!/bin/sh
# A training on several nodes that survives its time limit: sbatch docs/slurm.sh cache runs/liver [options of gpu-synth fit]
# SLURM sends SIGUSR1 two minutes before the limit; the run writes a checkpoint after the step at hand and ends with 138; the job is
# queued again, and goes on from that checkpoint. After a crash, `scontrol requeue` or a new sbatch does the same.
#SBATCH --job-name=gpu-synth
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

data=$1 runs=$2
shift 2
srun gpu-synth fit --config liver.yaml --data.data_dir "$data" --trainer.default_root_dir "$runs" --ckpt_path last \
    --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" --trainer.strategy ddp "$@"
code=$?
[ "$code" -eq 138 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$code"
