"""Wrong input for the campaign: command lines that cannot be meant, and odd photos."""

from __future__ import annotations

import io
import os
import random
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import damages
import faults
import numpy as np
from hydra import compose, initialize_config_dir
from PIL import Image

from dreambooth.cli import main as cli
from dreambooth.cli.configuration.configs import CONF, keys_of
from dreambooth.cli.configuration.specs import train_spec
from dreambooth.cli.refusals import checks
from dreambooth.data.photos import SUFFIXES, image_hash, load_photo
from dreambooth.errors import UserError

WRONG = ("null", "-1", "0", "1.5", "abc", "''", "'  '", "[]", "[0,x]", "{a: 1}", ".nan", ".inf")
WRONG += ("true", "4294967296", "1e400", "x" * 300, "'/proc/x'", "${oc.env:HOME}", "${nothing}")


def command_lines() -> Iterator[str]:
    """List one override for every key of train.py and every wrong value."""
    for key in sorted(cli_keys()):
        for value in WRONG:
            yield f"{key}={value}"


def cli_keys() -> set[str]:
    """Name every key of conf/train.yaml, and its groups."""
    return {key for key in keys_of("train", [CONF]) if not key.startswith("hydra")}


def compose_line(override: str) -> str:
    """Compose a command line and build its values, as train.py does before any work."""
    try:
        with warnings.catch_warnings(), initialize_config_dir(str(CONF), version_base="1.3"):
            warnings.simplefilter("ignore")
            cfg = compose("train", ["output_dir=out", override])
            checks.check(cfg)
            checks.check_packages(cfg)
            train_spec(cfg)
    except Exception as error:
        text = cli.composition_error("train", error, [CONF]) or cli.sentence(error)
        return f"traceback: {type(error).__name__}: {error}" if text is None else "refused"
    return faults.AS_IT_SHOULD_BE


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F", "HSV", "LAB")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "GIF", "ICO", "PPM", "EPS")


def read_photo(folder: Path, number: int) -> str:
    """Read one odd photo: another mode, size, format, turn or suffix, and damaged or not."""
    draw = random.Random(number)
    path = folder / f"photo{draw.choice(SUFFIXES[:8])}"
    size = draw.choice(((1, 1), (16, 16), (15, 900), (64, 48), (999, 20), (333, 77), (50, 60)))
    values = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image, data = Image.fromarray(values), io.BytesIO()
    try:
        exif = Image.Exif()
        exif[0x0112] = draw.randrange(12)
        kind = draw.choice(FORMATS)
        image.convert(draw.choice(MODES)).save(data, kind, exif=exif.tobytes())
    except Exception:  # a pair of mode and format that does not exist
        image.save(data, "PNG")
    path.write_bytes(data.getvalue())
    if draw.random() < 0.5:
        damages.damage(path, draw.choice(damages.DAMAGES[:6]))
    elif draw.random() < 0.1:
        path.unlink()
        draw.choice((lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero"), path.mkdir))()
    signal.alarm(20)
    try:
        image_hash(path)
        read = load_photo(path)
    except UserError as error:
        return "refused" if str(path) in str(error) else f"traceback: unnamed: {error}"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return faults.AS_IT_SHOULD_BE if read.mode == "RGB" else f"silent: mode {read.mode}"
