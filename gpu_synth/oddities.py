"""What looks odd in a prepared data set: told from the manifest's figures alone, each case beside the others."""

from collections.abc import Sequence
from statistics import median

from gpu_synth.manifest import Case

SOFT_TISSUE_HU = (-200, 400)  # an organ's mean outside this range means a wrong mask, a lung, or an image not in HU
TINY_ML = 10.0  # less than any organ that the presets are made for
TINY_SHARE = 0.25  # of the data set's median
FEW_CASES = 3  # fewer say nothing of what is usual
_FACES = (("left", "right"), ("back", "front"), ("bottom", "top"))


def oddities(cases: Sequence[Case]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Find what looks odd.

    An organ is odd where it has less than 10 ml or a quarter of the data set's median; more components than is usual there (kidneys have
    two; of fewer than three cases, one is usual); a mean HU that no soft tissue has; a mask that would clearly fit its scan if it were
    flipped or turned, and as it lies does not; or touches the scan's border.

    Returns:
        Name and findings, in words, of each odd case, in order of the cases.
    """
    few = len(cases) < FEW_CASES
    usual_ml = 0.0 if few else median(case.organ_ml for case in cases)
    usual_components = 1 if few else int(median(case.components for case in cases))
    found = [(case.name, _findings(case, usual_ml, usual_components)) for case in cases]
    return tuple((name, findings) for name, findings in found if findings)


def _findings(case: Case, usual_ml: float, usual_components: int) -> tuple[str, ...]:
    findings = []
    if case.organ_ml < TINY_ML:
        findings.append(f"only {case.organ_ml:.2g} ml")
    elif case.organ_ml < TINY_SHARE * usual_ml:
        findings.append(f"only {case.organ_ml:.0f} ml, {usual_ml:.0f} are usual")
    if case.components > usual_components:
        findings.append(f"{case.components} components")
    if not SOFT_TISSUE_HU[0] <= case.organ_mean_hu <= SOFT_TISSUE_HU[1]:
        findings.append(f"{case.organ_mean_hu:.0f} HU is no soft tissue")
    if case.fits_only:
        findings.append(f"fits only {case.fits_only}")
    if faces := cut_faces(case.organ_bbox_vox, case.shape):
        findings.append(f"cut at {' and '.join(faces)}")
    return tuple(findings)


def cut_faces(bbox_vox: Sequence[Sequence[int]], shape: Sequence[int]) -> list[str]:
    """Name the scan's faces that the organ touches.

    Args:
        bbox_vox: first voxel of the organ, and one past the last.
        shape: voxels of the scan, RAS.
    """
    axes = zip(_FACES, *bbox_vox, shape, strict=True)
    return [name for (low, high), start, stop, n in axes for name, there in ((low, start == 0), (high, stop == n)) if there]
