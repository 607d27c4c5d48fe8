#!/usr/bin/env bash
# nnU-Net v2 (gpu-synth[nnunet]) with synthetic tumours, from healthy CTs and organ masks to predictions: bash nnunet.sh CTS MASKS SCANS
# With no folders it makes phantoms and trains for two steps on the CPU. TRAINER and DEVICE name others, in both cases.
set -euo pipefail
export nnUNet_raw=${nnUNet_raw:-$PWD/nnUNet_raw}
export nnUNet_preprocessed=${nnUNet_preprocessed:-$PWD/nnUNet_preprocessed}
export nnUNet_results=${nnUNet_results:-$PWD/nnUNet_results}
mkdir -p "$nnUNet_raw" "$nnUNet_preprocessed" "$nnUNet_results"
if [ $# -eq 0 ]; then
  set -- cts masks scans && TRAINER=${TRAINER:-nnUNetTrainerTwoSteps} DEVICE=${DEVICE:-cpu} && mkdir -p "$@" own_trainers
  python - <<'PHANTOMS'
import nibabel, numpy, gpu_synth.phantom
for n in range(5):
    image, label = (array[0, 0].numpy() for array in gpu_synth.phantom.phantom(n, (44, 40, 32), (5.0, 5.0, 6.0)))
    nibabel.save(nibabel.Nifti1Image(image.round().astype("int16"), numpy.diag([5, 5, 6, 1])), f"cts/p{n}.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, numpy.diag([5, 5, 6, 1])), f"masks/p{n}.nii.gz")
PHANTOMS
  cp cts/p0.nii.gz scans/p0_0000.nii.gz
  cat > own_trainers/nnUNetTrainerTwoSteps.py <<'OWN'
import torch
from gpu_synth.trainers.nnunet.nnUNetTrainerTumorSynth import nnUNetTrainerTumorSynth
class nnUNetTrainerTwoSteps(nnUNetTrainerTumorSynth):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 2, 1
OWN
fi
# where nnU-Net finds the trainers, and what they synthesise: any argument of TumorSynthesizer
here=$(python -c "import gpu_synth.trainers.nnunet as here; print(here.__path__[0])")
export nnUNet_extTrainer=${nnUNet_extTrainer:+$nnUNet_extTrainer:}$here:$PWD/own_trainers
export nnUNet_tumorSynth=${nnUNet_tumorSynth:-"{preset: liver, prob: 0.9}"}
gpu-synth nnunet-dataset --dataset 900 --images "$1" --labels "$2" || [ $? -eq 1 ] # 1: some cases were left out, as it says
gpu-synth nnunet-fingerprint --dataset 900 --processes 2
nnUNetv2_plan_and_preprocess -d 900 -c 3d_fullres -npfp 2 -np 2
nnUNetv2_train 900 3d_fullres 0 -tr "${TRAINER:-nnUNetTrainerTumorSynth}" -device "${DEVICE:-cuda}"
nnUNetv2_predict -d 900 -c 3d_fullres -f 0 -tr "${TRAINER:-nnUNetTrainerTumorSynth}" -device "${DEVICE:-cuda}" -i "$3" -o predictions
