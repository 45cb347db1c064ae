"""Random numbers that depend on a key alone: one key, one generator.

A draw that is a function of its key (seed, purpose, step, ...) has no state to save: a resumed run
draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def keyed_generator(*key: int | str) -> torch.Generator:
    """Make a CPU generator that depends on its key alone, such as `(seed, "noise", step)`.

    It is on the CPU so that a key draws the same numbers on every device and number of ranks.

    >>> first, again, other = (keyed_generator(0, name).initial_seed() for name in "aab")
    >>> first == again, first == other
    (True, False)
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def keyed_normal(shape: tuple[int, ...], *key: int | str) -> Tensor:
    """Draw standard normal numbers, float32, that depend on the key alone.

    >>> bool((keyed_normal((2, 3), 0, "noise") == keyed_normal((2, 3), 0, "noise")).all())
    True
    """
    return torch.randn(shape, generator=keyed_generator(*key))
