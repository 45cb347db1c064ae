"""Text in PNG files, and a picture's hash, which does not depend on it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth.data.photos import image_hash
from dreambooth.errors import UserError
from dreambooth.metrics.preprocess import image_digest
from dreambooth.png_text import hash_without_text, png_info, read_text

TEXT = {"parameters": 'a "dog" 犬, שלום\nSteps: 2', "dreambooth": '{"seed": 1}'}


def save(path: Path, text: dict[str, str]) -> bytes:
    """A picture of noise, large enough for several data chunks."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="PNG", pnginfo=png_info(text))
    return path.read_bytes()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_texts_come_back_whatever_signs_they_hold(tmp_path):
    save(tmp_path / "a.png", TEXT)
    assert read_text(tmp_path / "a.png") == TEXT


def test_our_text_does_not_change_a_pictures_hash(tmp_path):
    """Class images, latents and features that earlier versions cached stay valid."""
    plain, written = save(tmp_path / "plain.png", {}), save(tmp_path / "text.png", TEXT)
    assert plain != written
    for hashed in (hash_without_text, image_hash, image_digest):
        assert hashed(tmp_path / "text.png") == hashed(tmp_path / "plain.png") == sha256(plain)


@pytest.mark.parametrize("text", [{"parameters": "a dog"}, {"Comment": "dreambooth"}])
def test_a_file_of_another_program_is_hashed_whole(tmp_path, text):
    data = save(tmp_path / "a.png", text)
    assert hash_without_text(tmp_path / "a.png") == sha256(data)


def test_a_damaged_file_and_other_formats_are_hashed_whole(tmp_path):
    data = save(tmp_path / "a.png", TEXT)
    for content in (data[:-5], data[:300], b"dreambooth\0", b""):
        (tmp_path / "b").write_bytes(content)
        assert hash_without_text(tmp_path / "b") == sha256(content)
    (tmp_path / "b").write_bytes(data[:300])
    with pytest.raises(UserError, match="b cannot be read as an image"):
        read_text(tmp_path / "b")
