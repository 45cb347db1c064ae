"""Preprocessing against torchvision's and transformers' own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dreambooth.errors import UserError
from dreambooth.metrics.encoders import CLIP224, R256C224, SQ224
from dreambooth.metrics.preprocess import from_folder, image_digest, open_image

SIZES = [(512, 512), (301, 517), (700, 333), (256, 256), (97, 64)]
IMAGENET = T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = T.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def original(resize: int, normalize: T.Normalize) -> T.Compose:
    bicubic = T.InterpolationMode.BICUBIC
    return T.Compose([T.Resize(resize, bicubic), T.CenterCrop(224), T.ToTensor(), normalize])


@pytest.mark.parametrize("size", SIZES)
def test_dino_and_clip_transforms_are_the_originals(size, picture):
    """eval_knn.py of facebookresearch/dino (interpolation=3), clip.py of openai/CLIP."""
    image = picture(0, *size)
    assert torch.equal(R256C224(image), original(256, IMAGENET)(image))
    assert torch.equal(CLIP224(image), original(224, OPENAI)(image))


@pytest.mark.parametrize("size", SIZES[:4])  # at 97 x 64 its crop starts a pixel before OpenAI's
def test_hf_forms_are_transformers_processors(size, picture):
    image = picture(1, *size)
    vit = ViTImageProcessorPil(
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )  # size 224 x 224 and bilinear are its defaults
    expected = vit(image, return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(SQ224(image), expected, atol=1e-5)
    expected = CLIPImageProcessorPil()(image, return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(CLIP224(image), expected, atol=1e-5)


def test_the_two_dino_forms_differ_and_say_so(picture):
    image = picture(2, 512, 512)
    assert (R256C224.id, SQ224.id) == ("r256c224_bicubic", "sq224_bilinear")
    assert not torch.allclose(R256C224(image), SQ224(image), atol=0.1)


def test_folder_states_its_preprocessing(tmp_path, picture):
    config = {"size": {"height": 64, "width": 64}, "resample": 2}
    config |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(config))
    preprocess = from_folder(tmp_path, "put it there")
    assert preprocess.id == "sq64_bilinear"
    image = picture(3, 64, 64)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.allclose(preprocess(image), pixels / 127.5 - 1, atol=1e-6)
    crop = {"size": {"shortest_edge": 72}, "do_center_crop": True, "crop_size": {"height": 64}}
    path.write_text(json.dumps(config | crop))
    assert from_folder(tmp_path, "put it there").id == "r72c64_bilinear"
    del config["image_mean"]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="image_mean"):
        from_folder(tmp_path, "put it there")


def test_images_are_turned_and_laid_on_white(tmp_path, picture):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.array(open_image(clear)).min() == 255
    image = picture(0, 24, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees
    path = tmp_path / "turned.png"
    image.save(path, exif=exif)
    assert np.array_equal(np.array(open_image(path)), np.rot90(np.array(image), -1))


def test_sixteen_bits_are_scaled_as_in_training(tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(np.full((16, 16), 32639, np.uint16)).save(path)
    assert np.array(open_image(path)).max() == np.array(open_image(Image.open(path))).max() == 127
    assert np.array(open_image(path)).min() == 127


def test_missing_and_broken_files_are_named(tmp_path):
    broken, large = tmp_path / "broken.png", tmp_path / "large.png"
    Image.new("RGB", (64, 64)).save(broken)
    broken.write_bytes(broken.read_bytes()[:60] + b"no picture")
    Image.new("L", (20_000, 10_000)).save(large)  # Pillow refuses it with an error of its own
    for path, words in (
        (tmp_path / "gone.png", "cannot be read"),
        (broken, "cannot be read"),
        (large, "larger"),
    ):
        with pytest.raises(UserError, match=f"{path.name} .*{words}"):
            open_image(path)
    with pytest.raises(UserError, match="gone.png"):
        image_digest(tmp_path / "gone.png")


def test_digest_tells_pictures_apart(picture):
    assert image_digest(picture(0)) == image_digest(picture(0).copy())
    assert image_digest(picture(0)) != image_digest(picture(1))
    flat = Image.new("RGB", (2, 8)), Image.new("RGB", (8, 2))
    assert image_digest(flat[0]) != image_digest(flat[1])
