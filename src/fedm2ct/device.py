"""Where the tensors of heavy work lie: the first CUDA device, or the CPU where there is none.

``CUDA_VISIBLE_DEVICES`` chooses another GPU, or none.
"""

import torch


def compute_device() -> torch.device:
    """Return the device that this process trains, simulates and reconstructs on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
