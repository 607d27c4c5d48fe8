"""Where the host may look at values: one question, asked in one place."""

import torch


def on_host(device: torch.device) -> bool:
    """Whether a tensor's values can be read without waiting for an accelerator, and work be spared by looking."""
    return device.type == "cpu"
