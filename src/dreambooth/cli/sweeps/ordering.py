"""The order of a sweep's jobs, so that one goes on with what another has trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from dreambooth.training.resuming.fingerprint import CONTENT, NEITHER, RESULTS, WEIGHTS, is_under


def ordered(jobs: Sequence[Sequence[str]], in_parallel: bool = False) -> list[list[str]]:
    """Sort jobs, each a list of overrides; what no other job can go on with keeps its place.

    One after the other, those of one training stand together, fewer steps first, so that its
    checkpoints need not be kept for long. In parallel, fewer steps come first, and jobs of one
    training stand apart, so that few wait for each other.
    """
    first: dict[Hashable, int] = {}
    seen: Counter[Hashable] = Counter()
    keys = []
    for number, job in enumerate(jobs):
        training, steps = _training(job), _steps(job)
        place = first.setdefault(training, number)
        keys.append((steps, seen[training, steps]) if in_parallel else (place, steps))
        seen[training, steps] += 1
    return [list(jobs[number]) for number in sorted(range(len(jobs)), key=keys.__getitem__)]


def _training(job: Sequence[str]) -> frozenset[tuple[str, str]]:
    """Name the overrides on which trained weights depend, but for the numbers of steps."""
    values = _values(job)
    return frozenset((k, v) for k, v in values.items() if not _is_steps(k) and not _is_free(k))


def _steps(job: Sequence[str]) -> tuple[float, ...]:
    """Read the numbers of steps that a job sets, in the order of their keys; unknown ones last."""
    steps = sorted((key, value) for key, value in _values(job).items() if _is_steps(key))
    numbers = [float(value) if value.isdecimal() else float("inf") for _, value in steps]
    return tuple(numbers or [float("inf")])


def _values(job: Sequence[str]) -> dict[str, str]:
    """Read overrides as key => value; the last of a key counts, as it does for Hydra."""
    parts = [override.lstrip("+~").partition("=") for override in job]
    return {key: value for key, _, value in parts}


def _is_steps(key: str) -> bool:
    return key.rpartition(".")[2] == "max_steps"


def _is_free(key: str) -> bool:
    """Tell whether training does not depend on a key, nor on any key below it."""
    matter = (*WEIGHTS, *CONTENT)
    if is_under(key, matter) or any(is_under(name, [key]) for name in matter):
        return False
    return is_under(key, (*RESULTS, *NEITHER, "hydra"))
