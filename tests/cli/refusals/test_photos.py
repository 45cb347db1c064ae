"""Photos that no run could use are refused before any network is loaded."""

from __future__ import annotations

import pytest
from PIL import Image

from dreambooth.cli.refusals.photos import refuse_bad_photos, refuse_without_photos
from dreambooth.errors import UserError


def config(photos=None, noun="dog", use=None, name="dog", rendered=True, class_images=None) -> dict:
    return {
        "ppl": True,
        "method": {"uses_prior": True},
        "prior": {"images_dir": class_images and str(class_images), "num_class_images": 3},
        "subject": {"name": name, "class_noun": noun, "photos": photos and str(photos)},
        "photos": {"root": None, "rendered": 5, "use": use},
        "model": {"rendered_subjects": rendered},
    }


@pytest.fixture
def folder(tmp_path):
    for number in range(2):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_what_is_usable_is_not_refused(folder):
    refuse_bad_photos(config(folder, use=2))
    refuse_bad_photos(config(use=5))  # rendered
    refuse_bad_photos(config(rendered=False))  # downloaded later


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"use": 6}, "photos.use=6 is more than the 5 photos of dog"),
        ({"noun": "fabric pattern"}, "has no fabric pattern: give photos .subject.photos=DIR"),
        ({"name": "fabric", "rendered": False}, "unknown subject 'fabric'.*subject.photos=DIR"),
        ({"photos": "/absent"}, "/absent does not exist"),
        ({"class_images": "/absent"}, "prior.images_dir: .*/absent does not exist"),
    ],
)
def test_what_is_not_is_one_sentence(own, expected):
    with pytest.raises(UserError, match=expected):
        refuse_bad_photos(config(**own))


def test_every_photo_and_caption_is_read(folder):
    with pytest.raises(UserError, match="holds 2 images, fewer than prior.num_class_images=3"):
        refuse_bad_photos(config(folder, class_images=folder))
    with pytest.raises(UserError, match="photos.use=3 is more than the 2 photos"):
        refuse_bad_photos(config(folder, use=3))
    (folder / "1.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match="1.txt is not UTF-8"):
        refuse_bad_photos(config(folder))
    (folder / "2.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="2.png is not an image"):
        refuse_bad_photos(config(folder))


def test_a_sweep_is_refused_where_no_run_has_photos(folder):
    absent = config("/absent")
    refuse_without_photos([])
    refuse_without_photos([absent, config(folder)])
    with pytest.raises(UserError, match="/absent does not exist"):
        refuse_without_photos([absent, config("/absent too")])
