"""Presets of the lesion model, organ by organ. A figure has its source beside it, or is our choice, with the reason.

Any other organ: give the number of its label as `organ_label`, start from the preset whose lesions are most like it, and override what
differs (`TumorSynthesizer("kidney", organ_label=5, kinds=[…], size_mm=…)`), or write it down as YAML (`presets.to_yaml`). What to look
up for it: radii and how many a patient has; for each kind the HU in the phase at hand, as a share of the organ's or, for fluid and fat,
as they are (`target`); whether the edge is sharp, and whether lesions bulge out of the organ.
"""

from dataclasses import replace

from gpu_synth.lesion_kind import LesionKind
from gpu_synth.lesion_preset import LesionPreset

# Sources and reasons, figure by figure; "ours" is our choice.
# size_mm: tumours in LiTS have radii of 2 to 44 mm (facts on training data). size_prob, ours: four of ten under 5 mm, 1.4 a patch of 3.5
#   lesions, as small ones are what detectors miss. count, ours: a few a patch, about as large a share of it as the published method's.
# axis_ratio, irregularity, lobulation, spiculation, ours: by the look of LiTS tumours, round to oval, bumpy, without spikes.
# texture_mm, ours: blotches a few millimetres wide, as wide as the published grain. edge_share, edge_mm, ours: as sharp as a scanner
#   shows them (0.35 to 1.2 mm), and less than a sixth of the radius, so that small lesions keep their contrast.
# cnr_floor, ours: what is fainter than the noise of a voxel is not seen where it is a few voxels wide. least_organ_hu, ours: of an
#   unenhanced liver (55 HU, fatty ones 40 and less), a share of the organ's HU would leave 8 HU, which is not seen in a window of 200.
# mass_effect: around the 30 % of Hu et al. 2023. bulge, ours: as much as stays one to one; less moves a surface by less than a voxel.
# halo, halo_mm: off, as enhancement around a lesion is seen in few phases; ours where it is on.
# apart_mm, ours: a voxel or two of organ between labels, so that lesions count as several.
# avoid_vessels: a lesion that reaches a vessel is drawn again (Hu et al. 2023). avoid_vessels_to_mm, ours: in a contrast-enhanced liver
#   nearly no ball of more than 8 mm is free of them (measured). displace_vessels, ours: within larger tumours and cysts vessels
#   are gone, and mass effect pushes those around them away.
# inside_share, ours: lesions bulge the surface rather than being cut off by it.
# cluster_prob, cluster_mm, ours: now and then; neighbours within the width of a segment. satellite_mm: within 20 mm (Hu et al. 2022).
#   satellite_prob, satellites, satellite_from_mm, satellite_radius_mm, ours: "several", "small", around "large" lesions.
# cirrhosis_prob, ours: seldom, as it changes the whole patch. Nodules of 3 to 15 mm and a nodular surface: Hu et al. 2022; surface_mm,
#   nodule_hu, ours: as subtle as in portal-venous scans, where more looks paved; above 0.5 mm a contour looks serrated.
# kinds, ours in share and contrast, by what radiology calls typical: half hypodense, as metastases and cholangiocarcinomas in the
#   portal-venous phase; hyperdense as hypervascular metastases; rims as in target lesions; cysts near water, smooth and sharp; necrosis
#   and specks of calcium as after treatment; a capsule as hepatocellular carcinoma has it, of the lower half of the published 25 to 120
#   HU (Hu et al. 2023) and as wide as published (0.8 mm); ours: fading below a radius of 10 mm, as small nodules hardly have one.
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
    least_organ_hu=65.0,
    mass_effect=(10.0, 40.0),
    bulge=(45.0, 60.0),
    halo=(0.0, 0.0),
    halo_mm=(3.0, 8.0),
    apart_mm=2.0,
    avoid_vessels=True,
    avoid_vessels_to_mm=8.0,
    displace_vessels=True,
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
    nodule_hu=(2.0, 5.0),
    growth=False,
    kinds=(
        LesionKind("hypodense", 0.48, body=(-0.55, -0.20), texture=(0.05, 0.25)),
        LesionKind("hyperdense", 0.10, body=(0.2, 0.45)),
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

# Contrasts of adenocarcinoma and cyst: target HU 0.79 h − 41 and 0.757 h − 3.7, ± 5 %, h the organ's mean (Li et al. 2023); as
# contrasts −0.21 h − 41 and −0.243 h − 3.7, the ± 5 % of a target of some 0.8 h as ± 0.04 h. The law is of enhanced scans: below 80
# HU, ours, its constant shrinks with h, as it would make tumours darker than fluid. Neuroendocrine tumours, brighter in the arterial
# phase, and all shares are ours. size_mm, ours: a gland some 2 cm thick rarely holds more than 3 cm of radius. Adenocarcinoma
# infiltrates, hence ours: wide edges, irregular outlines with spikes, hardly any mass effect, and a part that lies beyond the thin
# gland. Clusters, satellites, cirrhosis: the liver's.
PANCREAS = replace(
    LIVER,
    name="pancreas",
    count=(1, 2),
    size_mm=(2.0, 5.0, 10.0, 18.0, 30.0),
    size_prob=(0.3, 0.3, 0.3, 0.1),
    size_prob_start=(0.3, 0.3, 0.3, 0.1),
    irregularity=(0.05, 0.14),
    spiculation=(0.0, 0.15),
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

# Cysts: −9 to 20 HU, homogeneous, sharp (Bosniak classification, version 2019). Angiomyolipoma: fat, below −10 HU, by definition. All
# else is ours: clear-cell carcinoma is heterogeneous and often necrotic, papillary carcinoma enhances little, an oncocytoma has a
# scar; cysts are most common. size_mm: renal masses are found from millimetres to some 8 cm across. Lesions grow out of the kidney,
# hence a small inside_share and strong mass effect; its vessels and its sinus are no reason to be elsewhere. displace_vessels: off, as a
# cortex that is brighter than the medulla would be taken for one. Clusters, satellites, cirrhosis: the liver's.
KIDNEY = replace(
    LIVER,
    name="kidney",
    count=(1, 3),
    size_mm=(2.0, 5.0, 10.0, 20.0, 40.0),
    size_prob=(0.3, 0.3, 0.3, 0.1),
    size_prob_start=(0.3, 0.3, 0.3, 0.1),
    mass_effect=(20.0, 40.0),
    avoid_vessels=False,
    displace_vessels=False,
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
