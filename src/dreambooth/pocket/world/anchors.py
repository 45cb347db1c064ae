"""The places on a subject where accessories go."""

from __future__ import annotations

from dataclasses import dataclass

from dreambooth.pocket.world.pen import Points


@dataclass(frozen=True)
class Anchors:
    """Where a subject wears things, in subject coordinates.

    `top`: centre (u, v) of the top of the head, and half its width. `eyes`: centre and radius of
    each. `neck`: centre, and half its width. `torso`: outline of what a shirt covers. `profile`:
    whether the subject is seen from its side.
    """

    top: tuple[float, float, float]
    eyes: tuple[tuple[float, float, float], ...]
    neck: tuple[float, float, float]
    torso: Points
    profile: bool = False
