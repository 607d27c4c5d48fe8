"""Presets of the lesion model, organ by organ. A figure has its source beside it, or is our choice, with the reason.

Any other organ: give the number of its label as `organ_label`, start from the preset whose lesions are most like it, and override what
differs (`TumorSynthesizer("kidney", organ_label=5, kinds=[…], size_mm=…)`), or write it down as YAML (`presets.to_yaml`). What to look
up for it: radii and how many a patient has; for each kind the HU in the phase at hand, as a share of the organ's or, for fluid and fat,
as they are (`target`); whether the edge is sharp, and whether lesions bulge out of the organ.
"""

from dataclasses import replace

from gpu_synth.lesion_preset import LesionKind, LesionPreset

# Radii: 2 to 44 mm, as tumours in LiTS have them (facts on training data); four of ten under 5 mm, our choice: at 3.5 lesions a patch
# that is 1.4 of them, and small ones are what detectors miss. Counts, axes and outlines: our choice, by the look of LiTS tumours. Mass
# effect: around the 30 % of Hu et al. 2023; bulge: as much as stays one to one, since less moves a surface by less than a voxel.
# Satellites within 20 mm: Hu et al. 2022; how many and how large: our choice. Nodules of 3 to 15 mm and a nodular surface: Hu et al. 2022;
# their contrast and height: our choice, as subtle as they are in portal-venous scans. Capsule: 25 to 120 HU in Hu et al. 2023, of which we
# take the lower half, on the kind that has one. Halo: none, as enhancement around a lesion is seen in few phases.
# Kinds, our choice: mostly hypodense, as metastases and cholangiocarcinomas in the portal-venous phase; hyperdense as hypervascular
# metastases; rims as in target lesions; cysts near water; necrosis and specks of calcium as after treatment; a capsule as hepatocellular
# carcinoma has it. Vessels: lesions are drawn again where they reach one (Hu et al. 2023); above 8 mm, our choice, hardly any place in
# a contrast-enhanced liver is free of them, and tumours of that size encase and push them. Inside share: our choice, so that lesions
# bulge the surface rather than being cut off by it; pancreas and kidney are thinner than their tumours, so that it is less.
LIVER = LesionPreset(
    name="liver",
    count=(1, 6),
    size_mm=(2.0, 5.0, 10.0, 20.0, 44.0),
    size_prob=(0.4, 0.3, 0.2, 0.1),
    size_prob_start=(0.4, 0.3, 0.2, 0.1),
    curriculum_samples=0,
    axis_ratio=(0.65, 1.0),
    irregularity=(0.03, 0.10),
    lobulation=(0.0, 0.18),
    spiculation=(0.0, 0.0),
    texture_mm=(6.0, 16.0),
    edge_share=0.12,
    edge_mm=(0.35, 1.2),
    cnr_floor=1.0,
    least_organ_hu=40.0,
    mass_effect=(10.0, 40.0),
    bulge=(45.0, 60.0),
    halo=(0.0, 0.0),
    halo_mm=(3.0, 8.0),
    apart_mm=2.0,
    avoid_vessels=True,
    avoid_vessels_to_mm=8.0,
    inside_share=0.65,
    cluster_prob=0.1,
    cluster_mm=15.0,
    satellite_prob=0.3,
    satellites=(2, 5),
    satellite_from_mm=10.0,
    satellite_radius_mm=(2.0, 5.0),
    satellite_mm=20.0,
    cirrhosis_prob=0.1,
    surface_mm=(0.25, 0.5),
    nodule_hu=(4.0, 8.0),
    growth=False,
    kinds=(
        LesionKind("hypodense", 0.48, body=(-0.55, -0.20), texture=(0.05, 0.25)),
        LesionKind("hyperdense", 0.10, body=(0.15, 0.45)),
        LesionKind("target", 0.12, body=(-0.50, -0.25), rim=(0.20, 0.50)),
        LesionKind("cyst", 0.10, body=(0.0, 18.0), target=True, texture=(0.0, 0.02), edge=0.6, outline=0.3),
        LesionKind("necrotic", 0.08, body=(-0.30, -0.15), core=(-0.50, -0.30), core_share=(0.45, 0.75), texture=(0.10, 0.25)),
        LesionKind("calcified", 0.06, body=(-0.45, -0.20), speck_hu=(120.0, 400.0), speck_share=0.08),
        LesionKind("encapsulated", 0.06, body=(-0.35, -0.12), capsule_hu=(25.0, 70.0), texture=(0.10, 0.25)),
    ),
)

# The same lesions, but for their shape: facts on growth. Radii to 20 mm, our choice: a cell invades the next after five steps, so that
# larger ones take hundreds of steps. Vessels bar their way rather than keeping them off.
LIVER_GROWTH = replace(LIVER, name="liver-growth", growth=True, avoid_vessels=False, size_mm=(2.0, 5.0, 10.0, 15.0, 20.0))

# Contrasts of adenocarcinoma and cyst: target HU 0.79 h − 41 and 0.757 h − 3.7, ± 5 %, h the organ's mean (Li et al. 2023); as contrasts
# −0.21 h − 41 and −0.243 h − 3.7, the ± 5 % of a target of some 0.8 h as ± 0.04 h. Neuroendocrine tumours, brighter than the organ in the
# arterial phase, and all else: our choice. Adenocarcinoma infiltrates: a wide edge, irregular, hardly any mass effect.
PANCREAS = replace(
    LIVER,
    name="pancreas",
    count=(1, 2),
    size_mm=(2.0, 5.0, 10.0, 18.0, 30.0),
    size_prob=(0.3, 0.3, 0.3, 0.1),
    size_prob_start=(0.3, 0.3, 0.3, 0.1),
    irregularity=(0.05, 0.14),
    spiculation=(0.0, 0.01),
    edge_mm=(0.5, 1.8),
    edge_share=0.18,
    mass_effect=(0.0, 20.0),
    bulge=(30.0, 60.0),
    inside_share=0.4,
    cluster_prob=0.0,
    satellite_prob=0.0,
    cirrhosis_prob=0.0,
    kinds=(
        LesionKind("adenocarcinoma", 0.60, body=(-0.25, -0.17), offset_hu=-41.0, texture=(0.05, 0.20)),
        LesionKind("cyst", 0.28, body=(-0.28, -0.20), offset_hu=-3.7, texture=(0.0, 0.05), edge=0.6, outline=0.4),
        LesionKind("neuroendocrine", 0.12, body=(0.15, 0.40), texture=(0.05, 0.20)),
    ),
)

# Cysts: −9 to 20 HU, homogeneous, sharp (Bosniak classification, version 2019). Angiomyolipoma: fat, below −10 HU, by definition; how far
# below, and all else, is our choice: clear-cell carcinoma is heterogeneous and often necrotic, papillary carcinoma enhances little, and
# lesions of the kidney mostly grow out of it, pushing its surface.
KIDNEY = replace(
    LIVER,
    name="kidney",
    count=(1, 3),
    size_mm=(2.0, 5.0, 10.0, 20.0, 40.0),
    size_prob=(0.3, 0.3, 0.3, 0.1),
    size_prob_start=(0.3, 0.3, 0.3, 0.1),
    mass_effect=(20.0, 40.0),
    avoid_vessels=False,
    inside_share=0.4,
    cluster_prob=0.0,
    satellite_prob=0.0,
    cirrhosis_prob=0.0,
    kinds=(
        LesionKind("cyst", 0.40, body=(-9.0, 20.0), target=True, texture=(0.0, 0.02), edge=0.6, outline=0.3),
        LesionKind("clear-cell", 0.30, body=(-0.35, -0.10), core=(-0.35, -0.10), core_share=(0.3, 0.7), texture=(0.15, 0.35)),
        LesionKind("papillary", 0.15, body=(-0.60, -0.40), texture=(0.02, 0.10), capsule_hu=(0.0, 30.0)),
        LesionKind("angiomyolipoma", 0.10, body=(-80.0, -20.0), target=True, texture=(0.10, 0.30)),
        LesionKind("oncocytoma", 0.05, body=(-0.20, -0.05), core=(-0.35, -0.20), core_share=(0.15, 0.3)),
    ),
)

ORGANS = (LIVER, LIVER_GROWTH, PANCREAS, KIDNEY)
