"""Six mistakes of published evaluation code: each buggy form is here, and ours differs or refuses.

Sources, as read: 1 grantrinehimer/dreambooth_diffusion clip_embeddings.py (b7be766); 2 DreamMatcher
evaluate.py; 3 and 5 seuleepy/personalization-eval; 4 ImagenHub; 6 arjuuunhm/DreamBooth metric.py.
"""

from __future__ import annotations

import csv
import io

import pytest
import torch
from torch.nn import functional as F

from dreambooth.errors import UserError
from dreambooth.metrics import variants
from dreambooth.metrics.aggregate import mean, mean_of_sums, sum_and_count
from dreambooth.metrics.encoders import load_encoder
from dreambooth.metrics.fidelity import allpairs_scores, clip_t_scores
from dreambooth.metrics.texts import check_texts

TABLE = "Unnamed: 0,prompt,live\n0,a dog in the jungle,True\n1,a dog in the snow,True\n"


def unit(n: int, seed: int, d: int = 16) -> torch.Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture
def matched() -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Eight images, each near the feature of its own prompt."""
    texts = unit(8, 0)
    images = F.normalize(texts + 0.5 * unit(8, 1), dim=1)
    return images, texts, [f"a dog in place {i}" for i in range(8)]


def test_1_column_names_are_not_prompts(matched):
    images, texts, prompts = matched
    header = list(csv.DictReader(io.StringIO(TABLE)).fieldnames)  # what iterating a frame yields
    for name in header:
        with pytest.raises(UserError, match="name of a column"):
            check_texts([name, "a dog"], ["a dog in the jungle", "a dog"])
    rows = [row["prompt"] for row in csv.DictReader(io.StringIO(TABLE))]
    check_texts(rows, rows)
    # The buggy mean over all image x text pairs does not see which text is whose.
    shuffled = [*range(1, 8), 0]

    def buggy(images, texts):
        return float((images @ texts.T).mean())

    ours = mean(clip_t_scores(images, texts, texts=prompts, prompts=prompts))
    wrong = [prompts[i] for i in shuffled]
    ours_shuffled = mean(clip_t_scores(images, texts[shuffled], texts=wrong, prompts=prompts))
    assert buggy(images, texts) == pytest.approx(buggy(images, texts[shuffled]))
    assert ours > ours_shuffled + 0.3 and ours > buggy(images, texts) + 0.3


def test_1_a_constant_text_is_refused(matched):
    images, texts, prompts = matched
    constant = ["a dog"] * 8
    features = texts[:1].expand(8, -1)
    with pytest.raises(UserError, match="all 8 images are scored against"):
        clip_t_scores(images, features, texts=constant, prompts=prompts)
    # One prompt for all images is a fair evaluation of that prompt.
    assert len(clip_t_scores(images, features, texts=constant, prompts=constant)) == 8


@pytest.mark.parametrize("text", ["a {} in the jungle", "a {0} {1} in the snow", "a dog}", ""])
def test_2_unformatted_templates_are_refused(matched, text):
    images, texts, prompts = matched
    with pytest.raises(UserError, match="brace|not a prompt"):
        clip_t_scores(images, texts, texts=[text, *prompts[1:]], prompts=prompts)


def test_2_dino_input_is_normalised(encoders_dir, picture):
    """The buggy input is 256 x 256 in [-1,1]; ours is 224 x 224 with ImageNet's statistics."""
    pixels = load_encoder("dino_vits16", encoders_dir=encoders_dir).pixels([picture(0, 300, 300)])
    assert pixels.shape == (1, 3, 224, 224)
    white = picture(0, 300, 300).point(lambda value: 255)
    brightest = load_encoder("dino_vits16", encoders_dir=encoders_dir).pixels([white])[0, :, 0, 0]
    expected = [(1 - m) / s for m, s in [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]]
    assert brightest.tolist() == pytest.approx(expected, abs=1e-5)


def test_3_every_image_is_counted(encoders_dir, matched, picture):
    encoder = load_encoder("pocket_clip", encoders_dir=encoders_dir)
    images = [picture(i) for i in range(5)]

    def buggy(images, batch_size):
        parts = []
        for start in range(0, len(images), batch_size):
            parts.append(encoder.images(images[start : start + batch_size]))
            return torch.cat(parts)  # inside the loop

    assert len(buggy(images, 2)) == 2
    assert len(encoder.images(images, batch_size=2)) == 5
    # And a short feature matrix cannot pass for the whole set.
    features, texts, prompts = matched
    with pytest.raises(UserError, match="one text per image"):
        clip_t_scores(features[:2], texts, texts=prompts, prompts=prompts)


def test_4_a_list_is_a_loop_of_singles(encoders_dir, picture):
    encoder = load_encoder("pocket_clip", encoders_dir=encoders_dir)
    images, prompts = [picture(i) for i in range(3)], ["a dog", "a red dog", "a cat"]
    together = encoder.images(images)
    assert torch.allclose(together, torch.cat([encoder.images([i]) for i in images]), atol=1e-6)
    text_features = encoder.texts(prompts)
    loop = torch.cat([encoder.texts([p]) for p in prompts])
    assert torch.allclose(text_features, loop, atol=1e-6)
    scores = clip_t_scores(together, text_features, texts=prompts, prompts=prompts)
    for i, prompt in enumerate(prompts):
        single = clip_t_scores(
            together[i : i + 1], text_features[i : i + 1], texts=[prompt], prompts=[prompt]
        )
        assert scores[i].item() == pytest.approx(single.item(), abs=1e-12)
    # Swapped arguments do not run: options have names, and texts are not images.
    with pytest.raises(TypeError):
        load_encoder("pocket_clip", encoders_dir, "cpu")
    with pytest.raises(UserError):
        encoder.texts(images)
    with pytest.raises(UserError):
        encoder.images(prompts)


def test_5_unequal_shards_do_not_bias_the_mean():
    scores = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    shards = [scores[:1], scores[1:]]
    buggy = sum(float(shard.mean()) for shard in shards) / 2
    ours = mean_of_sums(torch.stack([sum_and_count(shard) for shard in shards]))
    assert buggy == 0.5 and ours == pytest.approx(0.2, abs=1e-12)
    assert ours == pytest.approx(mean(scores), abs=1e-12)


def test_6_a_maximum_never_stands_for_a_mean():
    generated, real = unit(100, 0), unit(4, 1)
    as_mean = mean(allpairs_scores(generated, real))
    as_max = float((generated @ real.T).amax(dim=0).mean())  # the best image for each photo
    assert as_max > as_mean + 0.3
    encoder = "dino.vits16.hub.r256c224_bicubic"
    ids = [variants.dino_id(encoder, pairing) for pairing in ("allpairs", "max")]
    assert len(set(ids)) == 2  # so they have columns of their own
    # Nor does image i with photo i stand for all pairs.
    paired = float((generated[:4] * real).sum(dim=1).mean())
    assert abs(paired - as_mean) > 1e-3
