"""Photos are encoded once, and their latents are the VAE's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreambooth import tensors
from dreambooth.data import latents
from dreambooth.data.crops import Crops, cut_views
from dreambooth.data.latents import encode_examples
from dreambooth.data.photos import list_photos, load_photo
from dreambooth.errors import UserError
from dreambooth.model.stable_diffusion import StableDiffusion


@pytest.fixture(scope="module")
def model(tiny_model_dir) -> StableDiffusion:
    return StableDiffusion.from_pretrained(str(tiny_model_dir))


def test_latents_are_the_vaes_own(spine, model, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "BATCH_SIZE", 2)  # three photos: a whole batch and a part
    paths = list_photos(spine.photos)
    got = encode_examples(model, paths, ["a", "b", "c"], Crops(16), 0, tmp_path)
    for i, path in enumerate(paths):
        pixels = cut_views(load_photo(path), Crops(16), 0, path.name)[0]
        with torch.no_grad():
            posterior = model.vae.encode(pixels[None]).latent_dist
        torch.testing.assert_close(got.mean[i], posterior.mean[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got.logvar[i], posterior.logvar[0], rtol=1e-4, atol=1e-5)
    assert got.prompts == ("a", "b", "c") and got.names == ("0.png", "1.png", "2.png")


def test_encoding_happens_once(spine, model, tmp_path, monkeypatch):
    paths, prompts = list_photos(spine.photos), ["a"] * 3
    cut = Crops(16, num_crops=4, random_crop=True, flip=True)
    first = encode_examples(model, paths, prompts, cut, 0, tmp_path)
    assert len(first) == 12 == len(first.mean)
    assert first.names == tuple(name for name in ("0.png", "1.png", "2.png") for _ in range(4))
    assert len({tuple(m.flatten().tolist()) for m in first.mean}) > 6  # views differ
    with monkeypatch.context() as patch:
        patch.setattr(model, "encode", lambda _: pytest.fail("encoded again"))
        again = encode_examples(model, paths, ["another prompt"] * 3, cut, 0, tmp_path)
        assert torch.equal(first.mean, again.mean) and torch.equal(first.logvar, again.logvar)
        assert again.prompts == ("another prompt",) * 12
    encode_examples(model, paths, prompts, Crops(16), 0, tmp_path)
    calls, encode_pixels = [], model.encode
    monkeypatch.setattr(model, "encode", lambda x: calls.append(len(x)) or encode_pixels(x))
    for paths_, cut_, seed in (
        (paths[:2], cut, 0),
        (paths, replace(cut, flip=False), 0),
        (paths, cut, 1),
        (paths, replace(cut, resolution=24), 0),
        (paths, replace(cut, interpolation="lanczos"), 0),
    ):
        before = len(calls)
        encode_examples(model, paths_, prompts, cut_, seed, tmp_path)
        assert len(calls) > before, "another fact must be encoded again"
    before = len(calls)
    encode_examples(model, paths, prompts, Crops(16), 1, tmp_path)
    assert len(calls) == before, "the centre does not depend on the seed"


def test_a_changed_photo_is_encoded_again(spine, model, tmp_path):
    photo = tmp_path / "photos" / "a.png"
    photo.parent.mkdir()
    means = []
    for source in ("0.png", "1.png"):
        photo.write_bytes((spine.photos / source).read_bytes())
        means.append(encode_examples(model, [photo], ["a"], Crops(16), 0, tmp_path).mean)
    assert not torch.equal(*means)


def test_a_photo_that_cannot_be_read_is_named(model, tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(UserError, match=r"a\.png cannot be read"):
        encode_examples(model, list_photos(tmp_path), ["a"], Crops(16), 0, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "emptied", "bit", "another"])
def test_damaged_latents_are_encoded_again(spine, model, tmp_path, caplog, damage):
    paths = list_photos(spine.photos)
    first = encode_examples(model, paths, ["a"] * 3, Crops(16), 0, tmp_path)
    (file,) = (tmp_path / "latents").glob("*.safetensors")
    whole = file.read_bytes()
    if damage == "another":  # whole, and of other photos
        encode_examples(model, paths[:1], ["a"], Crops(16), 0, tmp_path / "other")
        (other,) = (tmp_path / "other" / "latents").glob("*.safetensors")
        other.replace(file)
    elif damage == "bit":  # in silence it would train other weights
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    else:
        file.write_bytes(whole[: -10 if damage == "cut" else 0])
    assert torch.equal(
        encode_examples(model, paths, ["a"] * 3, Crops(16), 0, tmp_path).mean, first.mean
    )
    assert "is damaged" in caplog.text and torch.equal(load_file(file)["mean"], first.mean)


def test_an_interrupted_encoding_leaves_nothing(spine, model, tmp_path, monkeypatch):
    def fail(state, path, metadata):
        save_file(state, path, metadata)
        raise OSError("interrupted")

    monkeypatch.setattr(tensors, "save_file", fail)
    with pytest.raises(OSError, match="interrupted"):
        encode_examples(model, list_photos(spine.photos), ["a"] * 3, Crops(16), 0, tmp_path)
    assert [p.suffix for p in (tmp_path / "latents").iterdir()] in ([], [".lock"])
