"""The pocket encoders: their losses, and weights that the metrics load."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel, ViTModel

from dreambooth.metrics.encoders import load_encoder
from dreambooth.pocket import world
from dreambooth.pocket.pretraining import encoders, shards
from dreambooth.pocket.pretraining.architecture import build_clip, build_dino
from dreambooth.pocket.pretraining.caption_tokens import caption_shards
from dreambooth.pocket.pretraining.device import to_pixels
from dreambooth.pocket.pretraining.spec import PretrainSpec
from dreambooth.pocket.pretraining.tokenizer import build_tokenizer, token_ids
from dreambooth.pocket.world.captions import RARE_IDENTIFIERS
from small_pretraining import make

SHARD = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cache with one shard of scenes."""
    root = tmp_path_factory.mktemp("encoders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD", SHARD)
        (root / "scenes").mkdir()
        shards.render_shard(0, root / "scenes", "train", SHARD)
        yield root


def settings(folder, *more: str) -> PretrainSpec:
    sizes = f"encoders.scenes={SHARD}", "encoders.samples=16", "encoders.ema_decay=0.9"
    others = [f"{stage}.scenes={SHARD}" for stage in ("vae", "denoiser", "probe")]
    own = "encoders.identity_scale=15.0", "encoders.weight_decay=0.0", "encoders.identities=30"
    return make(folder, *others, *sizes, *own, "device=cpu", *more)


@pytest.fixture(scope="module")
def views(folder):
    return encoders.identity_views(folder, 60)


def test_contrast_by_hand():
    # cosines: 1 and 0.6 in the first row, 0 and 0.8 in the second
    first, second = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[5.0, 0.0], [0.6, 0.8]])
    e = math.exp
    rows = -math.log(e(2) / (e(2) + e(1.2))) - math.log(e(1.6) / (e(0) + e(1.6)))
    columns = -math.log(e(2) / (e(2) + e(0))) - math.log(e(1.6) / (e(1.2) + e(1.6)))
    expected = (rows / 2 + columns / 2) / 2
    assert encoders.contrastive_loss(first, second, 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_views_show_training_identities_only(folder, views, monkeypatch):
    images, classes = views
    assert images.shape == (60, encoders.VIEWS, 64, 64, 3)
    assert np.array_equal(classes, np.arange(60) % 15)
    assert len({image.tobytes() for image in images.reshape(-1, 64, 64, 3)}) == 240
    again = encoders.identity_views(folder, 60)[0]
    assert np.array_equal(images, again)
    drawn = []
    sample = world.sample_identity

    def note(*arguments):
        drawn.append(sample(*arguments))
        return drawn[-1]

    monkeypatch.setattr(world, "sample_identity", note)
    encoders.identity_views(folder, 30)
    assert len(drawn) == 30 and not any(world.held_out_identity(who) for who in drawn)


def test_a_batch_holds_distinct_identities_of_two_classes(folder, views):
    images, classes = views
    spec = settings(folder, "encoders.batch_size=16")
    loss = encoders.IdentityLoss(build_dino(width=32, layers=1), spec, images, classes)
    pairs = set()
    for seed in range(40):
        who, which = loss.draw(torch.Generator().manual_seed(seed))
        assert len(who) == len(set(who)) == 8
        count = np.bincount(classes[who], minlength=15)
        assert sorted(count[count > 0]) == [4, 4]
        pairs.add(tuple(np.flatnonzero(count)))
        assert which.shape == (8, 2) and (which[:, 0] != which[:, 1]).all()
        assert which.min() >= 0 and which.max() < encoders.VIEWS
    assert len(pairs) > 20


def descends(model: torch.nn.Module, loss) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    before = loss(torch.Generator().manual_seed(0))["total"]
    before.backward()
    optimizer.step()
    with torch.no_grad():
        after = loss(torch.Generator().manual_seed(0))["total"]
    assert after < before


def test_a_step_lowers_both_losses(folder, views):
    torch.manual_seed(0)
    dino, images, classes = build_dino(width=32, layers=1), *views
    spec = settings(folder, "encoders.batch_size=16")
    descends(dino, encoders.IdentityLoss(dino, spec, images, classes))
    tokenizer = build_tokenizer(world.vocabulary())
    clip = build_clip(tokenizer, width=32, layers=1, text_layers=1)
    captions = caption_shards(folder, tokenizer, count=1, each=2, identifier_share=0.0)
    scenes = [folder / "scenes/train_00000.npy"]
    descends(clip, encoders.ClipLoss(clip, settings(folder), scenes, captions))


def test_the_identity_loss_by_hand(folder, views):
    images, classes = views
    torch.manual_seed(0)
    dino = build_dino(width=32, layers=1).eval()
    loss = encoders.IdentityLoss(dino, settings(folder), images, classes)
    who, which = loss.draw(torch.Generator().manual_seed(3))
    with torch.no_grad():
        features = [
            [dino(to_pixels(images[i][k][None], "cpu")).last_hidden_state[0, 0] for k in w]
            for i, w in zip(who, which, strict=True)
        ]
        total = loss(torch.Generator().manual_seed(3))["total"]
    unit = F.normalize(torch.stack([torch.stack(pair) for pair in features]), dim=2)
    cosines = 15 * unit[:, 0] @ unit[:, 1].T
    own = cosines.diagonal()
    expected = (cosines.logsumexp(0) - own).mean() / 2 + (cosines.logsumexp(1) - own).mean() / 2
    torch.testing.assert_close(total, expected)


def test_dino_alone_needs_no_scenes_and_leaves_no_half_clip(folder, tmp_path):
    encoders.pretrain_encoders(settings(tmp_path, "encoders.which=[dino]"))
    assert [path.name for path in (tmp_path / "encoders").iterdir()] == ["dino"]
    assert not (tmp_path / "scenes").exists() and not list(tmp_path.glob("captions*"))


def test_the_stage_makes_what_the_metrics_load(folder):
    encoders.pretrain_encoders(settings(folder))
    seen = np.concatenate([np.load(path) for path in folder.glob("captions-*/*.npy")])
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoders/clip")
    rare = {tokenizer(word).input_ids[1] for word in RARE_IDENTIFIERS}
    assert not rare & set(seen.flatten().tolist())
    images = np.stack([world.render(world.sample_scene(seed)) for seed in range(3)])
    pictures = [Image.fromarray(image) for image in images]
    texts = ["a red dog", "a photo of a cat on the beach"]

    dino = load_encoder("pocket_dino", encoders_dir=folder / "encoders")
    own = ViTModel.from_pretrained(folder / "encoders/dino", dtype=torch.float32)
    clip = load_encoder("pocket_clip", encoders_dir=folder / "encoders")
    both = CLIPModel.from_pretrained(folder / "encoders/clip", dtype=torch.float32)
    with torch.no_grad():
        pixels = to_pixels(images, "cpu")
        cls = own.eval()(pixels).last_hidden_state[:, 0]
        ids = torch.tensor(token_ids(tokenizer, texts)).long()
        out = both.eval()(input_ids=ids, pixel_values=pixels)
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(dino.images(pictures), F.normalize(cls, dim=1), **close)
    torch.testing.assert_close(clip.images(pictures), out.image_embeds, **close)
    torch.testing.assert_close(clip.texts(texts), out.text_embeds, **close)  # padding is nothing
    for name in ("dino", "clip"):
        weights = (folder / "encoders" / name / "model.safetensors").stat().st_size
        count = sum(p.numel() for p in {"dino": own, "clip": both}[name].parameters())
        assert weights < 2.2 * count + 20_000  # half precision
