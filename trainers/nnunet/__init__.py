"""Trainers that nnU-Net v2 finds when `nnUNet_extTrainer` names this folder.

nnU-Net puts the folder on the import path and imports every module in it: it holds trainers only, and nothing named like a package.
"""
