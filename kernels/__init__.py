"""Kernel families: each a torch twin that runs anywhere and is the specification; tensors in, tensors out, no presets."""
