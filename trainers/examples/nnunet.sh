#!/usr/bin/env bash
# nnU-Net v2 with synthetic tumours, from healthy CTs and organ masks to predictions: bash nnunet.sh CTS MASKS SCANS
# Needs: pip install "gpu-synth[nnunet]". DEVICE=cpu runs it without a GPU; TRAINER names another trainer.
set -euo pipefail
cts=${1:?CTS MASKS SCANS must be three folders} masks=${2:?MASKS must be a folder} scans=${3:?SCANS must hold NAME_0000.nii.gz}

export nnUNet_raw=${nnUNet_raw:-$PWD/nnUNet_raw}
export nnUNet_preprocessed=${nnUNet_preprocessed:-$PWD/nnUNet_preprocessed}
export nnUNet_results=${nnUNet_results:-$PWD/nnUNet_results}
mkdir -p "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results"

# where nnU-Net finds the trainers, and what they synthesise: any argument of TumorSynthesizer
trainers=$(python -c "import gpu_synth.trainers.nnunet as here; print(here.__path__[0])")
export nnUNet_extTrainer=${nnUNet_extTrainer:+$nnUNet_extTrainer:}$trainers
export nnUNet_tumorSynth=${nnUNet_tumorSynth:-"{preset: liver, prob: 0.9}"}

gpu-synth nnunet-dataset --dataset 900 --images "$cts" --labels "$masks"
gpu-synth nnunet-fingerprint --dataset 900 --processes 2
nnUNetv2_plan_and_preprocess -d 900 -c 3d_fullres -npfp 2 -np 2
nnUNetv2_train 900 3d_fullres 0 -tr "${TRAINER:-nnUNetTrainerTumorSynth}" -device "${DEVICE:-cuda}"
nnUNetv2_predict -d 900 -c 3d_fullres -f 0 -tr "${TRAINER:-nnUNetTrainerTumorSynth}" -device "${DEVICE:-cuda}" -i "$scans" -o predictions
