"""Latents of the scenes in the cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from dreambooth.pocket import world
from dreambooth.pocket.pretraining import shards
from dreambooth.pocket.pretraining.architecture import build_vae
from dreambooth.pocket.pretraining.latents import latent_shards, pretrain_latents
from dreambooth.pocket.pretraining.spec import PretrainSpec
from dreambooth.random import keyed_normal
from small_pretraining import make

SHARD = 8


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """A cache with a small VAE, two shards of scenes and their latents."""
    cache = tmp_path_factory.mktemp("latents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD", SHARD)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            vae = build_vae([8, 8, 16, 16], latent_channels=4, norm_num_groups=2)
            vae.register_to_config(scaling_factor=0.7)
            vae.save_pretrained(cache / "vae")
        (cache / "scenes").mkdir()
        for index in range(2):
            shards.render_shard(index, cache / "scenes", "train", SHARD)
        spec = make(cache, "seed=3", "device=cpu")
        pretrain_latents(spec)
        yield spec


def test_latents_are_the_encoded_scenes(spec: PretrainSpec):
    vae = AutoencoderKL.from_pretrained(spec.cache / "vae").eval()
    files = latent_shards(spec, 16)
    assert len(files) == 2
    for index, path in enumerate(files):
        latents = torch.from_numpy(np.load(path))
        assert latents.dtype == torch.float16 and latents.shape == (SHARD, 4, 8, 8)
        images = [world.render(world.sample_scene(index * SHARD + i)) for i in range(SHARD)]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 * 2 - 1
        with torch.no_grad():
            posterior = vae.encode(pixels.float(), return_dict=False)[0]
        noise = keyed_normal((SHARD, 4, 8, 8), 3, "posterior", index, 0)
        expected = (posterior.mean + posterior.std * noise) * 0.7
        torch.testing.assert_close(latents.float(), expected, rtol=2e-3, atol=2e-3)


def test_latents_are_made_once(spec: PretrainSpec):
    files = latent_shards(spec, 16)
    before = [file.stat().st_mtime_ns for file in files]
    pretrain_latents(spec)
    assert [file.stat().st_mtime_ns for file in files] == before


def test_seed_and_vae_decide_where_latents_lie(spec: PretrainSpec, tmp_path):
    def place(spec: PretrainSpec) -> str:
        return latent_shards(spec, 16)[0].parent.name

    copy = replace(spec, cache=tmp_path)
    vae = AutoencoderKL.from_pretrained(spec.cache / "vae")
    places = [place(spec), place(replace(spec, seed=4))]
    vae.save_pretrained(tmp_path / "vae")
    assert place(copy) == places[0]
    vae.register_to_config(scaling_factor=0.8)
    vae.save_pretrained(tmp_path / "vae")
    places.append(place(copy))
    vae.register_to_config(scaling_factor=0.7)
    with torch.no_grad():
        vae.encoder.conv_in.weight[0, 0, 0, 0] += 1
    vae.save_pretrained(tmp_path / "vae")
    places.append(place(copy))
    assert len(set(places)) == 4
