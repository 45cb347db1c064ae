"""A subject's photos in the embedded world, rendered: no camera, no download."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from dreambooth.cache import atomic, cache_key
from dreambooth.errors import UserError
from dreambooth.pocket import world


def rendered_photos(class_noun: str, name: str, count: int, cache_dir: str | Path) -> Path:
    """A folder of `count` 64x64 PNG views of the held-out identity that belongs to `name`.

    Raises:
        UserError: a class that the world does not hold.
    """
    if class_noun not in world.CLASSES:
        raise UserError(
            f"The embedded world holds no {class_noun}: give photos (subject.photos=DIR), or "
            f"subject.class_noun as one of {', '.join(world.CLASSES)}."
        )
    identity = world.subject_identity(class_noun, name)
    scenes = world.subject_scenes(identity, count)
    key = cache_key(scenes=[repr(scene) for scene in scenes])
    folder = Path(cache_dir) / "rendered" / f"{name}-{key}"
    if not folder.exists():
        with atomic(folder) as temporary:
            temporary.mkdir()
            for number, scene in enumerate(scenes):
                Image.fromarray(world.render(scene)).save(temporary / f"{number:02d}.png")
    return folder
