"""How it was measured, in words: what the report says of its figures, and what holds where there is nothing to measure."""

from html import escape

from gpu_synth import __version__
from gpu_synth.evaluate.case import Settings
from gpu_synth.evaluate.intervals import RESAMPLES
from gpu_synth.evaluate.overlap import TOLERANCE_MM
from gpu_synth.evaluate.postprocess import NEAR_MM

SCORES = (
    "DSC: Dice similarity coefficient. NSD: normalised surface distance (surface Dice), the share of both surfaces, by area, that "
    f"lies within {TOLERANCE_MM:g} mm of the other. Both by MONAI; means are over the scans whose reference holds the organ's "
    "own label, or a tumour: of the organ, a mask of tumours alone says nothing.",
    "Empty reference: DSC and NSD are 1 if the prediction is empty too, else 0, and stand apart from the means. Empty prediction of "
    "what is there: 0. A scan without a prediction counts as an empty one. A scan whose files cannot be read, or whose grids differ, is "
    "refused and counts in no figure; with two models, for neither. Predictions without a reference are not scored.",
    "Lesions are connected components of tumour (26-neighbourhood). One is found when the prediction shares a voxel with it; a "
    "predicted one that shares none with any is a false positive. Equivalent radius: that of the ball of its volume; one on the edge of "
    "two sizes belongs to the larger. False positives per scan count scans without a tumour too.",
    "FROC: a predicted lesion's score is the mean tumour probability within it; a real one has the best score of those that meet it. "
    "The curve and its mean sensitivity are MONAI's.",
    f"Intervals: 95 %, percentile bootstrap over scans ({RESAMPLES} resamples, fixed seed, SciPy); none for a single scan, or where "
    "all have one value. For the share of lesions found, over the scans that hold one; where no resample differs, as where all or none are "
    "found or one scan holds them all, Wilson's interval, for lesions taken as independent. For the share of scans without a tumour, or "
    "without an organ, in which none was predicted: Wilson's.",
)
TWO_MODELS = (
    "Differences are paired by scan. p: two-sided sign-flip permutation test of the mean difference (SciPy; exact where the 2ⁿ ways of n "
    f"scans are at most {RESAMPLES}), not corrected for the number of rows.",
)


def methods(settings: Settings, two: bool) -> list[str]:
    """Write paragraphs of HTML: definitions, and what was set.

    Args:
        settings: How masks were read.
        two: Whether two models are compared.
    """
    read = (
        f"organ {list(settings.organ_labels)} and tumour {list(settings.tumor_labels)} in references, "
        f"{list(settings.predicted_organ_labels)} and {list(settings.predicted_tumor_labels)} in predictions"
    )
    if settings.organ_names:
        read += escape(f"; of references that are DICOM, {list(settings.organ_names)} and {list(settings.tumor_names)}", quote=False)
    processed = (
        "Before scoring, the largest organ component was kept (26-neighbourhood), and the tumours that touch it or lie within "
        f"{NEAR_MM:g} mm."
        if settings.postprocess
        else "Predictions were scored as they are, with no post-processing."
    )
    first = f"Each scan is scored on the grid of its reference, in millimetres. Labels: {read}; tumour is part of the organ. {processed}"
    return [f"<p class=small>{line}</p>" for line in (first, *SCORES, *(TWO_MODELS if two else ()), f"gpu-synth {__version__}.")]
