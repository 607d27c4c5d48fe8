"""How many samples are worked on at a time: what a family needs for its work, besides its results, is bounded as a share of the batch."""

from itertools import pairwise

ROOM_BYTES = 6  # a voxel of the batch: one and a half images in float32


def groups(samples: int, bytes_a_voxel: float, room_bytes: float = ROOM_BYTES) -> list[slice]:
    """Split a batch into as few runs of samples as fit into the room one after the other, as even as can be; one sample always goes.

    Args:
        samples: Of the batch.
        bytes_a_voxel: What a voxel that is worked on needs.
        room_bytes: What there is for each voxel of the batch.
    """
    runs = -(-samples // max(1, int(samples * room_bytes / bytes_a_voxel)))
    return [slice(*ends) for ends in pairwise(samples * n // runs for n in range(runs + 1))]
