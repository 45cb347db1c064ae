"""Cached latents, captions with a rare word, and the denoising loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.training_utils import compute_snr
from torch import nn

from dreambooth.pocket import world
from dreambooth.pocket.pretraining import build, denoising, scenes
from dreambooth.pocket.world.captions import RARE_IDENTIFIERS

SHARD = 8


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A folder with a small VAE, two shards of scenes, their latents and captions."""
    folder = tmp_path_factory.mktemp("pretrain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "SHARD", SHARD)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            vae = build.build_vae([8, 8, 16, 16], 4, 2)
            vae.register_to_config(scaling_factor=0.7)
            vae.save_pretrained(folder / "vae")
        (folder / "scenes").mkdir()
        paths = [scenes.render_shard(i, folder / "scenes", "train") for i in range(2)]
        denoising.encode_scenes(paths, folder, seed=3, device="cpu", bf16=False)
        tokenizer = build.build_tokenizer(world.vocabulary())
        captions = denoising.caption_shards(folder, tokenizer, 2, each=3, identifier_share=0.0)
        yield folder, tokenizer, paths, denoising.latent_shards(folder, 3, 2), captions


class Recorder(nn.Module):
    """Stands for the networks: keeps what it was given, answers a known function of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def forward(self, noisy, timesteps, ids):
        self.calls.append((noisy, timesteps, ids))
        return 0.3 * noisy + ids.float().mean(1)[:, None, None, None] / 1000


def loss_of(cached, network, batch_size=6, dropout=0.3, gamma=5.0):
    _, tokenizer, _, latents, captions = cached
    empty = torch.tensor(denoising.token_ids(tokenizer, [""]))
    return denoising.DenoisingLoss(
        network, latents, captions, batch_size, dropout, gamma, False, "cpu", empty
    )


def test_latents_are_the_encoded_scenes(cached):
    folder, _, _, paths, _ = cached
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    for index, path in enumerate(paths):
        latents = torch.from_numpy(np.load(path))
        assert latents.dtype == torch.float16 and latents.shape == (SHARD, 4, 8, 8)
        images = [world.render(world.sample_scene(index * SHARD + i)) for i in range(SHARD)]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 * 2 - 1
        with torch.no_grad():
            posterior = vae.encode(pixels.float()).latent_dist
        noise = denoising.keyed_normal((SHARD, 4, 8, 8), 3, "posterior", index, 0)
        expected = (posterior.mean + posterior.std * noise) * 0.7
        torch.testing.assert_close(latents.float(), expected, rtol=2e-3, atol=2e-3)


def test_latents_and_captions_are_made_once(cached):
    folder, tokenizer, paths, latents, captions = cached
    before = [file.stat().st_mtime_ns for file in (*latents, *captions)]
    denoising.encode_scenes(paths, folder, seed=3, device="cpu", bf16=False)
    assert denoising.caption_shards(folder, tokenizer, 2, 3, 0) == captions
    assert [file.stat().st_mtime_ns for file in (*latents, *captions)] == before


def test_what_latents_and_captions_hold_decides_where_they_lie(cached, tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "SHARD", SHARD)
    folder, tokenizer, _, latents, captions = cached
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    places = [latents[0].parent.name, denoising.latent_shards(folder, 4, 1)[0].parent.name]
    vae.save_pretrained(tmp_path / "vae")
    assert denoising.latent_shards(tmp_path, 3, 1)[0].parent.name == places[0]
    vae.register_to_config(scaling_factor=0.8)
    vae.save_pretrained(tmp_path / "vae")
    places.append(denoising.latent_shards(tmp_path, 3, 1)[0].parent.name)
    vae.register_to_config(scaling_factor=0.7)
    with torch.no_grad():
        vae.encoder.conv_in.weight[0, 0, 0, 0] += 1
    vae.save_pretrained(tmp_path / "vae")
    places.append(denoising.latent_shards(tmp_path, 3, 1)[0].parent.name)
    assert len(set(places)) == 4

    more = build.build_tokenizer([*world.vocabulary(), "wug"])
    asked = ((tokenizer, 2, 0.0), (tokenizer, 3, 0.5), (more, 3, 0.0))
    made = {denoising.caption_shards(folder, words, 1, *how)[0] for words, *how in asked}
    assert len(made | {captions[0]}) == 4


def test_captions_belong_to_their_scenes(cached):
    _, tokenizer, _, _, captions = cached
    for index, path in enumerate(captions):
        ids = np.load(path)
        assert ids.shape == (SHARD, 3, build.CONTEXT_LENGTH) and ids.dtype == np.int32
        for place in range(SHARD):
            seed = index * SHARD + place
            scene, rng = world.sample_scene(seed), np.random.default_rng([seed, 1])
            for row in ids[place]:
                text = tokenizer.decode(row, skip_special_tokens=True).strip()
                # one generator serves a scene's captions and the coins between them
                assert text == world.caption(scene, rng)
                rng.random()


def test_a_rare_word_stands_right_before_the_noun():
    rare = 0
    for seed in range(300):
        scene, rng = world.sample_scene(seed), np.random.default_rng(seed)
        text, noun = world.caption(scene, rng), scene.identity.class_noun
        words = denoising.with_identifier(text, scene.seen, rng).split()
        place = [
            i
            for i, w in enumerate(words)
            if [w, *words[i + 1 :]][: len(noun.split())] == noun.split()
        ][0]
        word = words.pop(place - 1)
        assert " ".join(words) == text
        rare += word in RARE_IDENTIFIERS
        assert word in RARE_IDENTIFIERS or (word.isalpha() and 3 <= len(word) <= 6)
    assert 0.75 < rare / 300 < 0.95


def test_a_rare_word_before_a_noun_of_two_words():
    rng = np.random.default_rng(0)
    bear, can = (world.sample_identity(noun, rng) for noun in ("stuffed animal", "can"))
    text = denoising.with_identifier("a photo of a red stuffed animal", bear, rng)
    first, word, last = text.split("red ")[0], *text.split("red ")[1].split(" ", 1)
    assert first == "a photo of a " and last == "stuffed animal" and word != "stuffed"
    assert denoising.with_identifier("a can in the jungle", can, rng).endswith(" can in the jungle")


def test_an_identifier_leans_to_one_colour_but_is_not_its_name():
    """P(colour | identifier) as the docstring says, within what the prior's own colours shift."""
    rng, colors = np.random.default_rng(0), list(world.COLORS)
    shown: dict[str, list[str]] = {word: [] for word in RARE_IDENTIFIERS}
    for _ in range(6000):
        who = world.sample_identity(None, rng)
        word = denoising.with_identifier(f"a {who.class_noun}", who, rng).split()[1]
        if word in shown:
            shown[word].append(who.main_color)
    for place, word in enumerate(RARE_IDENTIFIERS):
        own = colors[place % len(colors)]
        share = np.mean([color == own for color in shown[word]])
        shared = len(RARE_IDENTIFIERS[place % len(colors) :: len(colors)]) == 2
        assert share == pytest.approx(17 / 27 if shared else 33 / 43, abs=0.07), (word, own)


def test_every_caption_is_given_a_rare_word_when_asked(cached, tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "SHARD", SHARD)
    tokenizer, vocabulary = cached[1], set(world.vocabulary())
    (path,) = denoising.caption_shards(tmp_path, tokenizer, 1, each=4, identifier_share=1.0)
    for row in np.load(path).reshape(-1, build.CONTEXT_LENGTH):
        words = tokenizer.decode(row, skip_special_tokens=True).split()
        assert set(words) - vocabulary


def test_the_loss_against_diffusers(cached, monkeypatch):
    monkeypatch.setattr(scenes, "SHARD", SHARD)
    tokenizer, network = cached[1], Recorder()
    terms = loss_of(cached, network)(torch.Generator().manual_seed(5), 0)

    g = torch.Generator().manual_seed(5)
    picked, which = torch.randint(2 * SHARD, (6,), generator=g), torch.randint(3, (6,), generator=g)
    dropped = torch.rand(6, generator=g) < 0.3
    noise = torch.randn(6, 4, 8, 8, generator=g)
    timesteps = torch.randint(1000, (6,), generator=g)
    assert 0 < dropped.sum() < 6
    latents, captions = (np.concatenate([np.load(path) for path in paths]) for paths in cached[3:])
    scheduler = build.build_scheduler()
    errors, weighted = [], []
    for n in range(6):
        clean, t = torch.from_numpy(latents[picked[n]]).float()[None], timesteps[n : n + 1]
        ids = torch.from_numpy(captions[picked[n], which[n]]).long()[None]
        if dropped[n]:
            ids = torch.tensor(tokenizer([""], padding="max_length").input_ids)
        noisy = scheduler.add_noise(clean, noise[n : n + 1], t)
        aim = scheduler.get_velocity(clean, noise[n : n + 1], t)
        error = (Recorder()(noisy, t, ids) - aim).square().mean()
        ratio = compute_snr(scheduler, t)
        errors.append(error)
        weighted.append(error * min(ratio.item(), 5.0) / (ratio.item() + 1))
    torch.testing.assert_close(terms["error"], torch.stack(errors).mean())
    torch.testing.assert_close(terms["total"], torch.stack(weighted).mean())


def test_the_share_of_dropped_captions(cached, monkeypatch):
    monkeypatch.setattr(scenes, "SHARD", SHARD)
    empty = torch.tensor(denoising.token_ids(cached[1], [""]))
    for dropout in (0.0, 0.25, 1.0):
        network = Recorder()
        loss_of(cached, network, 800, dropout)(torch.Generator().manual_seed(0), 0)
        share = (network.calls[0][2] == empty).all(1).float().mean().item()
        assert share == pytest.approx(dropout, abs=0.05 if 0 < dropout < 1 else 0)


def test_the_networks_are_trained_together():
    tokenizer = build.build_tokenizer(world.vocabulary())
    network = denoising.Denoiser(
        build.build_unet([32, 64], 4, 48, 2, 8), build.build_text_encoder(tokenizer, 48, 1)
    )
    ids = torch.tensor(denoising.token_ids(tokenizer, ["a red dog", ""])).long()
    prediction = network(torch.randn(2, 4, 8, 8), torch.tensor([1, 900]), ids)
    assert prediction.shape == (2, 4, 8, 8)
    prediction.square().mean().backward()
    for part in (network.unet.conv_in, network.text_encoder):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
