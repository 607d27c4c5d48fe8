"""Columns of the lesion model's tables, and which random word draws what; `outline.cuh` and `traits.cu` count them alike."""

from enum import IntEnum, unique


@unique
class Scan(IntEnum):
    """Columns of the scan's row; a range takes two, its low and its high."""

    ALTER_PROB = 0
    COUNT = 1
    AXIS_RATIO = 3
    IRREGULARITY = 5
    LOBULATION = 7
    SPICULATION = 9
    TEXTURE_MM = 11
    EDGE_SHARE = 13  # of the radius
    EDGE_MM = 14  # within these
    CNR_FLOOR = 16
    ORGAN_HU = 17  # organs of fewer HU have contrast as if of these
    SIZE_END = 18  # running sum of the size bins' probabilities, four
    SIZE_MM = 22  # their five ends
    MASS_EFFECT = 27
    BULGE = 29
    HALO = 31  # share of the organ's HU
    HALO_MM = 33
    CLUSTER_PROB = 35
    CLUSTER_MM = 36
    SATELLITE_PROB = 37
    SATELLITES = 38
    SATELLITE_FROM_MM = 40  # radius of the lesion that has them, at least
    SATELLITE_RADIUS_MM = 41
    SATELLITE_MM = 43
    CIRRHOSIS_PROB = 44
    SURFACE_MM = 45
    NODULE_HU = 47
    SIZE_START = 49  # as SIZE_END, in the run's first sample
    CURRICULUM = 53  # samples after which SIZE_END holds; 0: from the first on
    COLUMNS = 54


@unique
class Kind(IntEnum):
    """Columns of a kind's row. Contrasts are shares of the organ's HU; those of a target are HU."""

    END = 0  # running sum of probabilities
    TARGET = 1  # whether the body has HU of its own, rather than a contrast
    BODY = 2
    CORE = 4
    CORE_SHARE = 6  # of the radius
    RIM = 8
    TEXTURE = 10  # share of the body's contrast
    SPECK_HU = 12
    SPECK_SHARE = 14  # of the volume
    EDGE = 15  # factor on the edge
    OFFSET_HU = 16  # added to the body
    CAPSULE_HU = 17
    CAPSULE_MM = 19
    OUTLINE = 20  # factor on the outline's bumps, lobes and spikes
    SPECK_PART = 21  # of the specks' HU in the mean over a lesion
    COLUMNS = 22


@unique
class Trait(IntEnum):
    """Columns of a lesion's row: lengths in mm, HU relative to the organ around."""

    RADIUS = 0  # of the ball of as much volume
    AXES = 1  # semi-axes of the ellipsoid that the outline bends
    ROTATION = 4  # unit quaternion, real part first
    IRREGULARITY = 8
    LOBULATION = 9
    SPICULATION = 10
    KIND = 11
    BODY = 12
    CORE = 13
    CORE_SHARE = 14
    RIM = 15
    TEXTURE = 16
    TEXTURE_MM = 17
    SPECK = 18
    SPECK_SHARE = 19
    EDGE = 20
    REACH = 21  # of the outline, in semi-axes
    PUSH = 22  # strength of the mass effect, percent
    BULGE = 23  # the same, where the lesion touches the organ's surface
    CAPSULE = 24
    CAPSULE_MM = 25  # standard deviation of its profile
    HALO = 26
    HALO_MM = 27
    PARENT = 28  # slot of the lesion that it lies near, −1 of none
    WITHIN_MM = 29  # of the parent's radius
    PUSH_MM = 30  # radius by which the mass effect reaches
    COLUMNS = 31


@unique
class Word(IntEnum):
    """Which of a lesion's words draws what."""

    SIZE_BIN = 0
    SIZE = 1
    AXES = 2
    ROTATION = 4
    IRREGULARITY = 7
    LOBULATION = 8
    SPICULATION = 9
    KIND = 10
    BODY = 11
    CORE = 12
    CORE_SHARE = 13
    RIM = 14
    TEXTURE = 15
    TEXTURE_MM = 16
    SPECK = 17
    PUSH = 18
    BULGE = 19
    CAPSULE = 20
    HALO = 21
    HALO_MM = 22
    WORDS = 23


@unique
class ScanWord(IntEnum):
    """Which of a scan's words draws what."""

    ALTER = 0
    CLUSTER = 1
    SATELLITE = 2
    SATELLITES = 3
    CIRRHOSIS = 4
    SURFACE_MM = 5
    NODULE_HU = 6
    WORDS = 7
