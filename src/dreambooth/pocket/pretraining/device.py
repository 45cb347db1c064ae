"""Networks and images on a device, and the precision to compute in."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def move(module: nn.Module, device: str) -> None:
    """Move a network to a device; the libraries' own `to` has no types that a checker can read."""
    module.to(device)


def to_pixels(images: np.ndarray, device: str) -> Tensor:
    """Convert images `[N,H,W,3]` uint8 to pixels `[N,3,H,W]` float32 in [-1,1]."""
    pixels = torch.from_numpy(np.array(images)).to(device)
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def autocast(device: str, bf16: bool) -> torch.autocast:
    """Compute in bfloat16 inside the context, where asked."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16)
