"""The embedded base models: their weights, their rendered subjects, and the words they know.

The only module of this package that other rooms may import.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from dreambooth.errors import RESTORE, UserError
from dreambooth.files import (
    atomic,
    cache_key,
    file_hashes,
    folder_hash,
    read_json,
    write_json,
)
from dreambooth.locks import locked
from dreambooth.pocket import world
from dreambooth.pocket.world.captions import RARE_IDENTIFIERS, vocabulary
from dreambooth.scratch import remove_leftovers

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "weights"
FOLDERS = {"pocket": FOLDER, "pocket_flow": Path(__file__).parent / "weights_flow"}
HASHES = "hashes.json"  # of the pictures in a folder of rendered ones


def weights_folder(name: str = "pocket") -> Path:
    """Return the folder of an embedded model's pipeline inside this package.

    Raises:
        UserError: weights that are missing.
    """
    index = FOLDERS[name] / "model_index.json"
    if not index.is_file():
        raise UserError(f"The embedded model lacks {index}: {RESTORE}.")
    return FOLDERS[name]


def is_embedded(path: str) -> bool:
    """Tell whether a model's path names a model inside this package."""
    return path in FOLDERS


def weights_hash(folder: Path) -> str:
    """Hash the names and bytes of every .safetensors file below `folder`: 16 hex digits.

    Recorded figures are matched by it to the weights that they were measured on; cards and
    configurations do not count.
    """
    return folder_hash(folder, folder.rglob("*.safetensors"))


def require_class(class_noun: str) -> None:
    """Refuse a class that the embedded world does not have.

    Raises:
        UserError: lists those that it has.
    """
    if class_noun not in world.CLASSES:
        raise UserError(
            f"The embedded world has no {class_noun}: give photos (subject.photos=DIR), or "
            f"subject.class_noun as one of {', '.join(world.CLASSES)}."
        )


def rendered_photos(class_noun: str, name: str, count: int, cache_dir: str | Path) -> Path:
    """Render `count` 64x64 PNG views of the held-out identity of `name`; return their folder.

    Pictures that are damaged or missing are rendered again; other files there are replaced.

    Raises:
        UserError: as `require_class`.
    """
    require_class(class_noun)
    identity = world.subject_identity(class_noun, name)
    scenes = world.subject_scenes(identity, count)
    key = cache_key(scenes=[repr(scene) for scene in scenes])
    folder = Path(cache_dir) / "rendered" / f"{name}-{key}"
    if not _is_whole(folder):  # without the lock, so that a read-only cache works too
        with locked(folder):
            remove_leftovers(folder.parent)
            if not _is_whole(folder):
                if folder.exists():
                    log.warning("%s is damaged: its pictures are rendered again.", folder)
                with atomic(folder) as temporary:
                    temporary.mkdir()
                    for number, scene in enumerate(scenes):
                        Image.fromarray(world.render(scene)).save(temporary / f"{number:02d}.png")
                    write_json(temporary / HASHES, file_hashes(temporary))
    return folder


def _is_whole(folder: Path) -> bool:
    """Tell whether a folder of rendered pictures holds what was rendered, and no other picture."""
    try:
        hashes = read_json(folder / HASHES)
    except UserError:
        return False
    return file_hashes(folder, folder.glob("*.png")) == hashes


def rare_words() -> list[str]:
    """List the words that the embedded model was pretrained with as identifiers."""
    return list(RARE_IDENTIFIERS)


def known_words() -> set[str]:
    """Return the words of the captions that the embedded model was pretrained with."""
    return {*vocabulary()}


def unseen_words(prompt: str, identifier: str | None = None) -> list[str]:
    """List the words of `prompt` that no caption of the world uses, in lower case, each once.

    Rare identifiers are left out, since training showed their tokens, and so is a run's own
    `identifier`.
    """
    seen = {*vocabulary(), *RARE_IDENTIFIERS, *_words(identifier or "")}
    return [word for word in _words(prompt) if word not in seen]


def unseen_warning(prompts: Iterable[str], identifier: str | None = None) -> str | None:
    """Write one sentence that names the unseen words of all prompts; None where there are none."""
    words = _words(" ".join(w for prompt in prompts for w in unseen_words(prompt, identifier)))
    if not words:
        return None
    these = "this word" if len(words) == 1 else "these words"
    return f"the embedded model never saw {these} and draws something else: {', '.join(words)}."


def _words(text: str) -> list[str]:
    """Split a text into lower-case words, each once, without punctuation."""
    return list(dict.fromkeys(re.findall(r"[^\W_]+", text.lower())))


def model_path(path: str) -> str:
    """Return an embedded model's folder for its name, any other path or hub id as it is."""
    return str(weights_folder(path)) if is_embedded(path) else path
