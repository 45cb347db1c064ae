"""Encoders: parity with the references on random weights, batching, the cache, refusals."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch.nn import functional as F
from torchvision import transforms as T
from transformers import CLIPConfig, CLIPModel

from dreambooth.errors import UserError
from dreambooth.metrics.encoders import CLIP224, load_encoder
from dreambooth.metrics.features import Encoder, full_precision


def original_dino(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The hub's vision_transformer.py written again: fused qkv, 6 heads, eps 1e-6, norm(x)[:,0]."""

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, (384,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    patch = "embeddings.patch_embeddings.projection"
    x = F.conv2d(x, state[f"{patch}.weight"], state[f"{patch}.bias"], stride=16)
    x = x.flatten(2).transpose(1, 2)  # [N,196,384]
    cls = state["embeddings.cls_token"].expand(len(x), -1, -1)
    x = torch.cat([cls, x], dim=1) + state["embeddings.position_embeddings"]
    for i in range(12):
        block, h = f"layers.{i}", norm(x, f"layers.{i}.layernorm_before")
        q, k, v = (
            linear(h, f"{block}.attention.{p}_proj").unflatten(2, (6, 64)).transpose(1, 2)
            for p in "qkv"
        )
        weights = (q @ k.transpose(-2, -1) * 64**-0.5).softmax(dim=-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"{block}.attention.o_proj")
        h = linear(norm(x, f"{block}.layernorm_after"), f"{block}.mlp.fc1")
        x = x + linear(F.gelu(h), f"{block}.mlp.fc2")
    return norm(x, "layernorm")[:, 0]


@torch.no_grad()
def test_hub_dino_is_the_original_network_and_transform(encoders_dir, vits16, picture):
    image = picture(0, 400, 300)
    encoder = load_encoder("dino_vits16", encoders_dir=encoders_dir)
    transform = T.Compose(
        [
            T.Resize(256, interpolation=T.InterpolationMode.BICUBIC),
            T.CenterCrop(224),
            T.ToTensor(),
            T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    pixels = transform(image)[None]
    expected = original_dino(vits16.state_dict(), pixels)
    assert torch.allclose(encoder.embed(pixels), expected, atol=1e-4)
    features = encoder.images([image])
    assert features.shape == (1, 384)
    assert torch.allclose(features, F.normalize(expected, dim=1), atol=1e-5)
    # transformers' own forward, whose LayerNorm epsilon is 1e-12
    hf = vits16(pixel_values=pixels).last_hidden_state[:, 0]
    assert torch.allclose(features, F.normalize(hf, dim=1), atol=1e-4)
    before_norm = vits16(pixel_values=pixels, output_hidden_states=True).hidden_states[-1][:, 0]
    assert not torch.allclose(features, F.normalize(before_norm, dim=1), atol=1e-2)


def test_hf_dino_is_another_variant_with_the_same_weights(encoders_dir):
    hub = load_encoder("dino_vits16", encoders_dir=encoders_dir)
    hf = load_encoder("dino_vits16_hf", encoders_dir=encoders_dir)
    assert hub.variant == "dino.vits16.hub.r256c224_bicubic"
    assert hf.variant == "dino.vits16.hf.sq224_bilinear"
    assert hub.weights_hash == hf.weights_hash
    assert hub.model.layernorm.eps == 1e-6 and hf.model.layernorm.eps == 1e-12


@pytest.mark.slow
@torch.no_grad()
def test_clip_b32_is_transformers_own(picture, tokenizer):
    """ViT-B/32 in its widths (transformers' default configuration is OpenAI's B/32), two layers."""
    torch.manual_seed(0)
    few = {"num_hidden_layers": 2}
    model = CLIPModel(CLIPConfig(text_config=few, vision_config=few)).eval()
    model.config.text_config.eos_token_id = tokenizer.eos_token_id
    model.text_model.eos_token_id = tokenizer.eos_token_id
    cpu = torch.device("cpu")
    encoder = Encoder("clip_b32", "clip.b32", "random", "0", model, CLIP224, cpu, tokenizer)
    images = [picture(0, 300, 400), picture(1, 224, 224)]
    pixels = torch.stack([CLIP224(image) for image in images])
    expected = model.get_image_features(pixel_values=pixels).pooler_output
    assert encoder.images(images).shape == (2, 512)
    assert torch.allclose(encoder.images(images), F.normalize(expected, dim=1), atol=1e-5)
    for text in ("a dog", "a red sks dog in the jungle"):
        tokens = tokenizer(text, return_tensors="pt")
        expected = model.get_text_features(**tokens).pooler_output
        both = encoder.texts(["a longer text than the other one", text])[1]
        assert torch.allclose(both, F.normalize(expected, dim=1)[0], atol=1e-5)


def test_pocket_encoders_read_their_folder(encoders_dir, picture):
    dino = load_encoder("pocket_dino", encoders_dir=encoders_dir)
    clip = load_encoder("pocket_clip", encoders_dir=encoders_dir)
    assert (dino.variant, clip.variant) == ("dino.pocket.sq64_bicubic", "clip.pocket.sq64_bicubic")
    assert dino.images([picture(0)]).shape == (1, 32)
    assert clip.images([picture(0)]).shape == clip.texts(["a dog"]).shape == (1, 24)
    assert float(dino.pixels([picture(0)]).abs().max()) <= 1


def test_batch_size_and_order_do_not_matter(encoders_dir, picture):
    encoder = load_encoder("pocket_dino", encoders_dir=encoders_dir)
    images = [picture(i) for i in range(7)]
    features = encoder.images(images, batch_size=7)
    assert torch.allclose(features.norm(dim=1), torch.ones(7), atol=1e-6)
    for size in (1, 3):
        assert torch.allclose(encoder.images(images, batch_size=size), features, atol=1e-6)
    assert torch.allclose(encoder.images(images[::-1]).flip(0), features, atol=1e-6)


def test_autocast_and_random_state_are_left_alone(encoders_dir, picture):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    encoder = load_encoder("pocket_dino", encoders_dir=encoders_dir)
    plain = encoder.images([picture(0)])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder.images([picture(0)]), plain)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("api", ["old", "new"])
def test_a_trainers_precision_is_set_aside_and_put_back(api):
    """Both of torch's switches, which it refuses to read when they were mixed."""
    matmul = torch.backends.mkldnn.matmul
    before = torch.get_float32_matmul_precision(), matmul.fp32_precision
    try:
        if api == "old":
            torch.set_float32_matmul_precision("medium")
        else:
            matmul.fp32_precision = "bf16"
        with full_precision(torch.device("cpu")):
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "bf16"
        assert api == "new" or torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before[0])
        matmul.fp32_precision = before[1]


def counted(encoder: Encoder) -> list[int]:
    counts: list[int] = []
    embed = encoder.embed
    encoder.embed = lambda pixels: counts.append(len(pixels)) or embed(pixels)
    return counts


def test_cache_encodes_each_image_once(encoders_dir, tmp_path, picture):
    paths = []
    for i in (0, 1, 0, 2):
        path = tmp_path / f"{len(paths)}.png"
        picture(i).save(path)
        paths.append(path)
    load = {"encoders_dir": encoders_dir, "cache_dir": tmp_path / "cache"}
    encoder = load_encoder("pocket_dino", **load)
    counts = counted(encoder)
    features = encoder.images(paths)
    assert sum(counts) == 3 and torch.equal(features[0], features[2])
    again = load_encoder("pocket_dino", **load)
    counts = counted(again)
    picture(3).save(tmp_path / "new.png")
    more = again.images([*paths[::-1], tmp_path / "new.png"])
    assert counts == [1] and torch.equal(more[:4].flip(0), features)
    stored = load_encoder("pocket_dino", **load).cache.read()
    assert len(stored) == 4
    again.images([picture(4)])  # of a curve: never met again
    assert len(again.cache.read()) == 4


def test_another_preprocessing_or_architecture_has_features_of_its_own(
    encoders_dir, tmp_path, picture
):
    picture(0).save(tmp_path / "image.png")
    folder = shutil.copytree(encoders_dir, tmp_path / "encoders")
    load = {"encoders_dir": folder, "cache_dir": tmp_path / "cache"}
    rows = [load_encoder("pocket_clip", **load).images([tmp_path / "image.png"])]
    for name, key, value in (
        ("preprocessor_config.json", "image_mean", [0.1, 0.2, 0.3]),
        ("config.json", "vision_config", {"layer_norm_eps": 0.1}),
    ):
        path = folder / "clip" / name
        config = json.loads(path.read_text())
        is_block = isinstance(value, dict)
        path.write_text(json.dumps(config | {key: config[key] | value if is_block else value}))
        rows.append(load_encoder("pocket_clip", **load).images([tmp_path / "image.png"]))
        plain = load_encoder("pocket_clip", encoders_dir=folder).images([tmp_path / "image.png"])
        assert torch.equal(rows[-1], plain) and not torch.equal(rows[-1], rows[-2])
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.parametrize("name", ["pocket_dino", "pocket_clip"])
def test_nan_weights_are_named(encoders_dir, name, picture):
    encoder = load_encoder(name, encoders_dir=encoders_dir)
    for parameter in encoder.model.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN or zero features"):
        encoder.images([picture(0)])


def test_texts_and_images_refuse_what_they_cannot_read(encoders_dir, picture):
    clip = load_encoder("pocket_clip", encoders_dir=encoders_dir)
    long = "a dog " * 20
    with pytest.raises(UserError) as error:
        clip.texts(["a dog", long])
    assert long in str(error.value) and "reads 77" in str(error.value)
    assert clip.texts(["a" * 75]).shape == (1, 24)  # 77 with the two special tokens
    with pytest.raises(UserError, match="has 78 tokens"):
        clip.texts(["a" * 76])
    with pytest.raises(UserError, match="list of prompts"):
        clip.texts([picture(0)])
    with pytest.raises(UserError, match="no images"):
        clip.images([])
    with pytest.raises(UserError, match="does not exist|cannot be opened"):
        clip.images(["a dog"])
    with pytest.raises(UserError, match="no text encoder"):
        load_encoder("pocket_dino", encoders_dir=encoders_dir).texts(["a dog"])
