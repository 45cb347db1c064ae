"""Time the scoring of features: matrix products against one pair at a time, for five metrics.

    python benchmarks/scoring.py [--images 3000] [--rounds 3]

Features are random unit vectors of the real sizes (DINO 384, CLIP 512); LPIPS layers are stand-ins
with AlexNet's channels on a 6 x 6 grid. Both ways score the same features in turns, in one run, and
must agree to 1e-6. Cosine metrics (DINO, CLIP-I, CLIP-T, PRES) and DIV are timed separately: DIV is
defined on pairs, so its arithmetic is the same, and the number of network passes differs: one per
image here, two per pair in a script. Networks are not run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dreambooth.metrics.aggregate import bootstrap_interval, macro, mean
from dreambooth.metrics.fidelity import allpairs_scores, clip_t_scores
from dreambooth.metrics.perceptual import pairwise_distance
from dreambooth.metrics.preservation import class_prompt_scores, diversity

CHANNELS = (64, 192, 384, 256, 256)  # AlexNet's five LPIPS layers
PHOTOS, PROMPTS, PER_PROMPT = 5, 25, 4  # the paper's 25 prompts x 4 images; photos per subject


@dataclass
class Subject:
    """One subject's features; the last subject may have fewer images."""

    dino: Tensor  # [N,384]
    clip: Tensor  # [N,512]
    texts: Tensor  # [N,512]
    prior: Tensor  # [N,384], images of the class prompt
    dino_real: Tensor  # [5,384]
    clip_real: Tensor  # [5,512]
    prompts: list[str]  # N
    layers: list[Tensor]  # five [N,C,6,6], channel-unit


def subjects(images: int, generator: torch.Generator) -> list[Subject]:
    def unit(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, generator=generator), dim=1)

    result = []
    for start in range(0, images, PROMPTS * PER_PROMPT):
        n = min(PROMPTS * PER_PROMPT, images - start)
        prompts = [f"a dog in place {i // PER_PROMPT}" for i in range(n)]
        layers = [unit(n, channels, 6, 6) for channels in CHANNELS]
        features = unit(n, 384), unit(n, 512), unit(n, 512), unit(n, 384)
        result.append(Subject(*features, unit(PHOTOS, 384), unit(PHOTOS, 512), prompts, layers))
    return result


def our_cosines(data: list[Subject], weights: list[Tensor]) -> list[float]:
    rows = [
        (
            mean(allpairs_scores(s.dino, s.dino_real)),
            mean(allpairs_scores(s.clip, s.clip_real)),
            mean(clip_t_scores(s.clip, s.texts, texts=s.prompts, prompts=s.prompts)),
            mean(class_prompt_scores(s.prior, s.dino_real)),
        )
        for s in data
    ]
    return [mean(torch.tensor(column)) for column in zip(*rows, strict=True)]


def our_diversity(data: list[Subject], weights: list[Tensor]) -> list[float]:
    def one(s: Subject) -> float:
        def distance(rows: list[int]) -> Tensor:
            return pairwise_distance([layer[rows] for layer in s.layers], weights)

        return macro(diversity(s.prompts, distance))

    return [mean(torch.tensor([one(s) for s in data]))]


def average(values: list[float]) -> float:
    return sum(values) / len(values)


def pair_cosines(data: list[Subject], weights: list[Tensor]) -> list[float]:
    def cosine(a: Tensor, b: Tensor) -> float:
        return F.cosine_similarity(a, b, dim=0).item()

    rows = [
        (
            average([cosine(g, r) for g in s.dino for r in s.dino_real]),
            average([cosine(g, r) for g in s.clip for r in s.clip_real]),
            average([cosine(g, t) for g, t in zip(s.clip, s.texts, strict=True)]),
            average([cosine(g, r) for g in s.prior for r in s.dino_real]),
        )
        for s in data
    ]
    return [average(list(column)) for column in zip(*rows, strict=True)]


def pair_diversity(data: list[Subject], weights: list[Tensor]) -> list[float]:
    def lpips(s: Subject, i: int, j: int) -> float:
        total = 0.0
        for layer, weight in zip(s.layers, weights, strict=True):
            squared = (layer[i] - layer[j]) ** 2
            total += (squared * weight[:, None, None]).sum(dim=0).mean().item()
        return total

    means = []
    for s in data:
        groups: dict[str, list[int]] = {}
        for i, prompt in enumerate(s.prompts):
            groups.setdefault(prompt, []).append(i)
        pairs = [[lpips(s, i, j) for i in g for j in g if i < j] for g in groups.values()]
        means.append(average([average(values) for values in pairs]))
    return [average(means)]


def seconds(function: Callable[..., list[float]], *arguments: object) -> tuple[float, list[float]]:
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def report(
    kind: str,
    images: int,
    rounds: int,
    ways: tuple[Callable[..., list[float]], ...],
    arguments: tuple[list[Subject], list[Tensor]],
) -> None:
    """Time both ways in turns and print one line; stop if they disagree."""
    times: tuple[list[float], list[float]] = ([], [])
    results: list[list[float]] = [[], []]
    ways[0](arguments[0][:1], arguments[1])  # the first call also loads kernels
    for _ in range(rounds):
        for way in (0, 1):
            elapsed, results[way] = seconds(ways[way], *arguments)
            times[way].append(elapsed)
    gap = max(abs(x - y) for x, y in zip(*results, strict=True))
    if gap > 1e-6:
        raise SystemExit(f"the two ways of {kind} disagree by {gap:.2g} at {images} images")
    a, b = (statistics.median(t) for t in times)
    print(
        f"{images:6d}  {kind:7s} {a:8.3f} {1e6 * a / images:10.1f} {b:12.3f} "
        f"{1e6 * b / images:10.1f} {b / a:7.1f} {gap:16.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=3000, help="the largest of three sizes")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.rand(channels, generator=generator) for channels in CHANNELS]
    print(f"torch {torch.__version__}, 1 thread, median of {options.rounds} interleaved rounds")
    print("images  metrics   ours s   us/image   per pair s   us/image   ratio   max difference")
    kinds = {"cosines": (our_cosines, pair_cosines), "DIV": (our_diversity, pair_diversity)}
    for images in (options.images // 4, options.images // 2, options.images):
        data = subjects(images, generator)
        for kind, ways in kinds.items():
            report(kind, images, options.rounds, ways, (data, weights))
    passes = PER_PROMPT - 1  # two per pair: n (n - 1) for n images of a prompt
    print(f"network passes for DIV: {images} (one per image), {passes * images} (two per pair)")
    scores = torch.rand(images, generator=generator)
    groups = [str(i // PER_PROMPT) for i in range(images)]
    start = time.perf_counter()
    bootstrap_interval(scores, groups, seed=0)
    print(f"one interval over {images // PER_PROMPT} prompts: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
