"""PRES and DIV against loops, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dreambooth.errors import UserError
from dreambooth.metrics.aggregate import macro, mean
from dreambooth.metrics.preservation import (
    class_prompt_scores,
    diversity,
    other_subjects_scores,
)


def unit(n: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(n, 16, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_class_prompt_is_the_double_loop():
    prior, real = unit(6, 0), unit(4, 1)
    loop = sum(float(p @ r) for p in prior for r in real) / 24
    assert mean(class_prompt_scores(prior, real)) == pytest.approx(loop, abs=1e-6)


def test_other_subjects_uses_the_class_and_never_the_subject_itself():
    generated = {"dog": unit(3, 0), "dog2": unit(2, 1), "dog3": unit(4, 2), "vase": unit(5, 3)}
    real = {"dog": unit(2, 4), "dog2": unit(3, 5), "dog3": unit(2, 6), "vase": unit(2, 7)}
    classes = {"dog": "dog", "dog2": "dog", "dog3": "dog", "vase": "vase"}
    scores = other_subjects_scores(generated, real, classes)
    assert sorted(scores) == ["dog", "dog2", "dog3"]
    for subject, values in scores.items():
        loop = [
            float(g @ r)
            for other in ("dog", "dog2", "dog3")
            if other != subject
            for g in generated[other]
            for r in real[subject]
        ]
        assert mean(values) == pytest.approx(sum(loop) / len(loop), abs=1e-6)


def test_other_subjects_refuses_lone_subjects_and_gaps():
    generated = {"dog": unit(3, 0), "vase": unit(2, 1)}
    classes = {"dog": "dog", "vase": "vase"}
    with pytest.raises(UserError, match="two subjects of one class"):
        other_subjects_scores(generated, generated, classes)
    with pytest.raises(UserError, match="vase has images but lacks photos"):
        other_subjects_scores(generated, {"dog": unit(2, 0)}, classes)


def distances(points: torch.Tensor):
    return lambda rows: torch.cdist(points[rows], points[rows])


def test_diversity_is_pairs_within_a_prompt_then_prompts():
    points = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prompts = ["b", "a", "b", "a", "a", "a", "b"]  # unequal counts, interleaved
    result = diversity(prompts, distances(points))
    for prompt in "ab":
        rows = [i for i, p in enumerate(prompts) if p == prompt]
        loop = [float((points[i] - points[j]).norm()) for i in rows for j in rows if i < j]
        assert result[prompt] == pytest.approx(sum(loop) / len(loop), abs=1e-6)
    # Prompts weigh alike though one has six pairs and the other three.
    assert macro(result) == pytest.approx((result["a"] + result["b"]) / 2, abs=1e-12)
    order = [3, 0, 6, 1, 5, 2, 4]
    again = diversity([prompts[i] for i in order], distances(points[order]))
    assert again == pytest.approx(result, abs=1e-12)


def test_diversity_of_copies_is_zero():
    points = torch.ones(4, 3)
    assert diversity(["a", "a", "b", "b"], distances(points)) == {"a": 0.0, "b": 0.0}


@pytest.mark.parametrize(
    ("prompts", "matrix", "words"),
    [
        ([], torch.zeros(0, 0), "no images"),
        (["a", "b", "a"], torch.zeros(2, 2), '"b" has one'),
        (["a", "a"], torch.zeros(3, 3), "2 x 2 matrix"),
        (["a", "a"], torch.full((2, 2), float("nan")), "finite"),
        (["a", "a"], torch.tensor([[0.0, 1.0], [2.0, 0.0]]), "symmetric"),
        (["a", "a"], torch.eye(2), "zero diagonal"),
    ],
)
def test_diversity_refuses(prompts, matrix, words):
    with pytest.raises(UserError) as error:
        diversity(prompts, lambda rows: matrix)
    assert words in str(error.value) and "\n" not in str(error.value)
