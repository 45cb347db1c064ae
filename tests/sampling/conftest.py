"""What drawing does inside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from diffusers import UNet2DConditionModel


@pytest.fixture
def autocasts() -> Iterator[set[torch.dtype | None]]:
    """The dtypes that U-Nets were autocast to; None for a call without autocast."""
    seen: set[torch.dtype | None] = set()

    def note(module, _):
        if isinstance(module, UNet2DConditionModel):
            on = torch.is_autocast_enabled("cpu")
            seen.add(torch.get_autocast_dtype("cpu") if on else None)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    yield seen
    hook.remove()
