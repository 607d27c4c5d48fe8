"""How good segmentations are: overlap and surfaces in each scan, lesions found by size, intervals, comparisons, a report."""
