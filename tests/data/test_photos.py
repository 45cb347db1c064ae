from __future__ import annotations

import errno
import hashlib
import io
import os
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from dreambooth.data.photos import captions, image_hash, list_photos, load_photo, load_photos
from dreambooth.errors import UserError


def noise_image(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def corner(path: Path) -> tuple[int, ...]:
    return load_photo(path).getpixel((0, 0))


# -- listing ----------------------------------------------------------------------------------


def test_listing_is_sorted_and_skips_what_is_no_photo(tmp_path: Path) -> None:
    wanted = ["00.jpg", "01.JPEG", "a.png", "b.WebP", "c.bmp", "d.tif", "e.TIFF", "x.heic"]
    for name in [*reversed(wanted), ".hidden.jpg", ".DS_Store", "00.txt", "notes.pdf"]:
        (tmp_path / name).write_bytes(b"x")
    for folder in [".ipynb_checkpoints", "more", "folder.jpg"]:
        (tmp_path / folder).mkdir()
    assert [path.name for path in list_photos(tmp_path)] == wanted


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        list_photos(tmp_path / "none")
    with pytest.raises(UserError, match="holds no photos"):
        list_photos(tmp_path)
    (tmp_path / "file.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="is a file, not a folder"):
        list_photos(tmp_path / "file.jpg")
    (tmp_path / "file.jpg").unlink()
    for name in ("dog", "cat", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "dog" / "00.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="holds no photos, but folders .*such as .*dog"):
        list_photos(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has none of these")
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "device.jpg"):
        for read in (load_photo, image_hash):
            with pytest.raises(UserError, match=f"{name} is a pipe or a device and no file"):
                read(tmp_path / name)
    with pytest.raises(UserError, match="device.jpg is a pipe or a device"):
        list_photos(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such name")
def test_a_name_that_is_not_utf8_is_shown_and_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path / "x") + b"\xff.jpg")).write_bytes(b"x")
    with pytest.raises(UserError, match="x\ufffd.jpg is not UTF-8: rename it") as refused:
        list_photos(tmp_path)
    str(refused.value).encode()
    (tmp_path / "linked").mkdir()
    next(tmp_path.glob("*.jpg")).rename(hidden := Path(os.fsdecode(bytes(tmp_path) + b"/\xff.jpg")))
    (tmp_path / "linked/a.jpg").symlink_to(hidden)  # the record names the file itself
    with pytest.raises(UserError, match="/\ufffd.jpg is not UTF-8"):
        list_photos(tmp_path / "linked")


# -- what is converted ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, [[1, 2, 3], [4, 5, 6]]),
        (2, [[3, 2, 1], [6, 5, 4]]),
        (3, [[6, 5, 4], [3, 2, 1]]),
        (6, [[4, 1], [5, 2], [6, 3]]),
        (8, [[3, 6], [2, 5], [1, 4]]),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, turned: list) -> None:
    stored = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8).repeat(16, 0).repeat(16, 1) * 40
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    seen = np.asarray(load_photo(tmp_path / "a.png"))[8::16, 8::16, 0]
    assert (seen // 40).tolist() == turned


def test_cmyk_is_converted(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(np.subtract(corner(tmp_path / "a.jpg"), (255, 0, 0))).max() <= 3


def _swapped_profile(name: str) -> bytes:
    """sRGB's profile with the red and the green primary exchanged, under another name."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    return profile.replace("sRGB".encode("utf-16-be"), name.encode("utf-16-be"))


def test_a_colour_profile_is_followed(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 20), (200, 40, 90))
    for name, expected in (("Wide", (40, 200, 90)), ("sRGB", (200, 40, 90))):
        image.save(tmp_path / "a.png", icc_profile=_swapped_profile(name))
        got = np.asarray(load_photo(tmp_path / "a.png"))[3, 3].astype(int)
        assert np.abs(got - expected).max() <= 1
    image.save(tmp_path / "a.png", icc_profile=b"no profile at all")
    assert np.asarray(load_photo(tmp_path / "a.png"))[3, 3].tolist() == [200, 40, 90]


def test_greyscale_and_palette_and_bilevel(tmp_path: Path) -> None:
    Image.new("L", (16, 16), 77).save(tmp_path / "l.png")
    Image.new("RGB", (16, 16), (10, 200, 30)).quantize(4).save(tmp_path / "p.png")
    Image.new("1", (16, 16), 1).save(tmp_path / "1.png")
    assert corner(tmp_path / "l.png") == (77, 77, 77)
    assert corner(tmp_path / "p.png") == (10, 200, 30)
    assert corner(tmp_path / "1.png") == (255, 255, 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    ("value", "scaled"),
    [
        (0, 0),
        (128, 0),
        (129, 1),
        (257, 1),
        (300, 1),
        (32896, 128),
        (65535, 255),
    ],
)
def test_16_bits_are_scaled_not_clipped(
    tmp_path: Path, suffix: str, value: int, scaled: int
) -> None:
    Image.fromarray(np.full((16, 16), value, dtype=np.uint16)).save(tmp_path / f"a.{suffix}")
    assert corner(tmp_path / f"a.{suffix}") == (scaled,) * 3


def test_alpha_lies_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (16, 16), (255, 0, 0, 51)).save(tmp_path / "fifth.png")
    Image.new("LA", (16, 16), (0, 0)).save(tmp_path / "grey.png")
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "key.png", transparency=(9, 9, 9))
    assert corner(tmp_path / "clear.png") == (255, 255, 255)
    assert corner(tmp_path / "fifth.png") == (255, 204, 204)  # 255 * 4/5
    assert corner(tmp_path / "grey.png") == (255, 255, 255)
    assert corner(tmp_path / "key.png") == (255, 255, 255)


def test_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (1, 2, 3)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert corner(tmp_path / "a.jpg") == (1, 2, 3)


# -- what is refused --------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds not one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


BAD = {
    "text": (b"this is no picture\n", "is not an image"),
    "truncated": (encoded(noise_image(64, 64), "JPEG")[:1500], "cannot be read"),
    "empty": (b"", r"is empty \(0 bytes\)"),
    "dot": (encoded(Image.new("RGB", (1, 1)), "PNG"), "is 1x1 pixels"),
    "thin": (encoded(Image.new("RGB", (15, 400)), "PNG"), "is 15x400 pixels"),
    "huge": (png_header(30_000, 30_000), "larger than 64 megapixels"),
    "large": (png_header(10_000, 10_000), "larger than 64 megapixels"),  # Pillow only warns
    "over": (png_header(8_001, 8_000), "larger than 64 megapixels"),  # Pillow says nothing
    "gif": (encoded(Image.new("RGB", (16, 16)), "GIF"), "is not an image"),
    "eps": (encoded(Image.new("RGB", (16, 16)), "EPS"), "is not an image"),
    "float": (encoded(Image.new("F", (16, 16), 0.5), "TIFF"), "cannot be read"),
    "deep": (encoded(Image.new("I", (16, 16), 70_000), "TIFF"), "more than 16 bits"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_file_is_one_sentence_naming_it(tmp_path: Path, kind: str) -> None:
    data, sentence = BAD[kind]
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    with pytest.raises(UserError, match=sentence) as raised, warnings.catch_warnings():
        warnings.simplefilter("error")
        load_photo(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_photo_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone.jpg cannot be read .No such file"):
        load_photo(tmp_path / "gone.jpg")


def test_first_bad_photo_is_named_and_the_others_counted(tmp_path: Path) -> None:
    for name in ["0.png", "3.png"]:
        noise_image(16, 16).save(tmp_path / name)
    for name in ["1.jpg", "2.jpg", "4.jpg"]:
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1\.jpg is not .*\(2 more of the photos") as raised:
        list(load_photos(list_photos(tmp_path)))
    assert "2.jpg" not in str(raised.value)
    (tmp_path / "1.jpg").unlink()
    (tmp_path / "2.jpg").unlink()
    with pytest.raises(UserError, match=r"4\.jpg") as raised:
        list(load_photos(list_photos(tmp_path)))
    assert "more" not in str(raised.value)
    (tmp_path / "4.jpg").unlink()
    assert [image.size for image in load_photos(list_photos(tmp_path))] == [(16, 16)] * 2


# -- captions and hashes ----------------------------------------------------------------------


def test_caption_beside_the_photo_or_the_fallback(tmp_path: Path) -> None:
    photos = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    assert captions(photos, "a sks dog") == ["a sks dog"] * 2
    (tmp_path / "a.txt").write_bytes(b" \n")
    assert captions(photos, "a sks dog") == ["a sks dog"] * 2
    (tmp_path / "a.txt").write_bytes("\ufeffa sks dog,\n on a rüg\n".encode())
    assert captions(photos, "a sks dog") == ["a sks dog, on a rüg", "a sks dog"]
    (tmp_path / "a.txt").write_bytes("rüg".encode("latin-1"))
    with pytest.raises(UserError, match="a.txt is not UTF-8"):
        captions(photos, "a sks dog")


def test_an_unreadable_caption_or_photo_is_named(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    (photo,) = list_photos(tmp_path)
    for read in (image_hash, load_photo):
        with pytest.raises(UserError, match=r"a\.jpg cannot be read \(No such file"):
            read(photo)
    (tmp_path / "a.txt").write_text("a sks dog")

    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(UserError, match=r"caption .*a\.txt cannot be read \(Permission denied"):
        captions([photo], "a sks dog")


def test_image_hash_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    assert image_hash(tmp_path / "a.jpg") == hashlib.sha256(b"abc").hexdigest()
    assert image_hash(tmp_path / "a.jpg").startswith("ba7816bf8f01cfea")  # FIPS 180-2, "abc"


def test_the_datasets_dog_loads() -> None:
    root = os.environ.get("DREAMBOOTH_PHOTOS")
    if not root or not (Path(root) / "dog").is_dir():
        pytest.skip("DREAMBOOTH_PHOTOS names no copy of the dataset")
    images = list(load_photos(list_photos(Path(root) / "dog")))
    assert len(images) == 5
    assert all(image.mode == "RGB" and image.width == image.height for image in images)


# -- photos of phones -------------------------------------------------------------------------


def test_avif_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (200, 30, 40)).save(tmp_path / "a.avif", quality=95)
    assert np.abs(np.subtract(corner(tmp_path / "a.avif"), (200, 30, 40))).max() < 8


def test_heic_is_read_with_its_package(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (64, 48), (200, 30, 40))).save(tmp_path / "a.heic")
    assert load_photo(tmp_path / "a.heic").size == (64, 48)
    assert np.abs(np.subtract(corner(tmp_path / "a.heic"), (200, 30, 40))).max() < 8


def test_heic_without_its_package_is_refused_by_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr("dreambooth.packages.find_spec", lambda name: None)
    (tmp_path / "a.HEIC").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a.HEIC needs the package pillow-heif.*save the photo as"):
        load_photo(tmp_path / "a.HEIC")
