"""Fidelity scores against brute-force double loops, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dreambooth.errors import UserError
from dreambooth.metrics import fidelity
from dreambooth.metrics.aggregate import mean

N, M, D = 7, 5, 24


def unit(n: int, seed: int, d: int = D) -> torch.Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / (sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b)) ** 0.5


@pytest.fixture
def generated() -> torch.Tensor:
    return unit(N, 0)


@pytest.fixture
def real() -> torch.Tensor:
    return unit(M, 1)


def test_allpairs_is_the_double_loop(generated, real):
    scores = fidelity.allpairs_scores(generated, real)
    loop = [sum(cosine(g, r) for r in real) / M for g in generated]
    assert scores.tolist() == pytest.approx(loop, abs=1e-6)
    every_pair = [cosine(g, r) for g in generated for r in real]
    assert mean(scores) == pytest.approx(sum(every_pair) / len(every_pair), abs=1e-6)


def test_real_row_with_and_without_the_diagonal(real):
    pairs = [[cosine(a, b) for b in real] for a in real]
    without = [(sum(row) - row[i]) / (M - 1) for i, row in enumerate(pairs)]
    assert fidelity.real_scores(real, include_self=False).tolist() == pytest.approx(
        without, abs=1e-6
    )
    with_self = fidelity.real_scores(real, include_self=True)
    assert with_self.tolist() == pytest.approx([sum(row) / M for row in pairs], abs=1e-6)
    # s becomes s + (1-s)/M.
    expected = [s + (1 - s) / M for s in without]
    assert with_self.tolist() == pytest.approx(expected, abs=1e-6)


def test_clip_t_is_the_matched_pair(generated):
    texts = [f"a dog {i}" for i in range(N)]
    features = unit(N, 3)
    scores = fidelity.clip_t_scores(generated, features, texts=texts, prompts=texts)
    assert scores.tolist() == pytest.approx(
        [cosine(generated[i], features[i]) for i in range(N)], abs=1e-6
    )


def test_identical_is_one_and_orthogonal_is_zero():
    eye = torch.eye(4)
    same = eye[:1].expand(3, 4)
    assert fidelity.allpairs_scores(same, same).tolist() == [1.0] * 3
    assert fidelity.real_scores(same, include_self=False).tolist() == [1.0] * 3
    assert fidelity.allpairs_scores(eye[:2], eye[2:]).tolist() == [0.0] * 2


def test_order_of_images_only_permutes_scores(generated, real):
    scores = fidelity.allpairs_scores(generated, real)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    shuffled = fidelity.allpairs_scores(generated[order], real.flip(0))
    assert shuffled.tolist() == pytest.approx(scores[order].tolist(), abs=1e-12)
    one_by_one = [fidelity.allpairs_scores(g[None], real).item() for g in generated]
    assert one_by_one == pytest.approx(scores.tolist(), abs=1e-12)


def with_nan(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x[1, 2] = float("nan")
    return x


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (with_nan, "row 1 holds NaN"),
        (lambda x: torch.cat([x[:1], torch.zeros(1, D)]), "row 1 is zero"),
        (lambda x: 3 * x, "divide features by their norm"),
        (lambda x: x[:0], "at least one feature row"),
        (lambda x: x[0], "shape [N,D]"),
        (lambda x: unit(3, 0, d=D + 1), "the same encoder"),
    ],
)
def test_bad_features_are_one_sentence(generated, real, spoil, words):
    with pytest.raises(UserError) as error:
        fidelity.allpairs_scores(spoil(generated), real)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_wrong_counts_are_refused(generated, real):
    with pytest.raises(UserError, match="two photos"):
        fidelity.real_scores(real[:1], include_self=False)
    with pytest.raises(UserError, match="7 images, 6 texts"):
        texts = list("abcdef")
        fidelity.clip_t_scores(generated, unit(N, 1), texts=texts, prompts=texts)
