"""Write frames as a GIF of one palette, or as an MP4."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dreambooth.files import atomic

FASTEST_GIF = 50  # frames a second; browsers slow down anything faster
PALETTE_FRAMES, PALETTE_SIDE = 48, 64  # frames that the palette is made from, and their side


def delays(frames: int, fps: float) -> list[int]:
    """Return each frame's time in hundredths of a second, whole as GIF stores it.

    Their sum is that of the film: at 30 fps a frame is shown for 3 or for 4 of them.

    >>> delays(6, 30), sum(delays(450, 30))
    ([3, 4, 3, 3, 4, 3], 1500)
    """
    ends = [round(100 * (frame + 1) / fps) for frame in range(frames)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def write_gif(frames: Sequence[Image.Image], path: Path, fps: float, comment: str) -> None:
    """Write an endless GIF whose frames share one palette of 256 colours, without dithering."""
    palette = _palette(frames)
    first, *others = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    with atomic(path) as temporary:
        first.save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=others,
            duration=[10 * each for each in delays(len(frames), fps)],  # Pillow takes milliseconds
            loop=0,
            comment=comment.encode(),
        )


def _palette(frames: Sequence[Image.Image]) -> Image.Image:
    """Choose 256 colours for all frames: those of a sheet of frames from the whole film."""
    every = max(1, len(frames) // PALETTE_FRAMES)
    chosen, side = list(frames[::every]), PALETTE_SIDE
    columns = math.ceil(math.sqrt(len(chosen)))
    sheet = Image.new("RGB", (columns * side, math.ceil(len(chosen) / columns) * side))
    for number in range(columns * math.ceil(len(chosen) / columns)):
        row, column = divmod(number, columns)
        small = chosen[number % len(chosen)].resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(small, (column * side, row * side))
    return sheet.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def write_mp4(frames: Sequence[Image.Image], path: Path, fps: float) -> None:
    """Write an H.264 film by diffusers' `export_to_video`, which needs imageio-ffmpeg."""
    from diffusers.utils.export_utils import export_to_video

    with atomic(path) as temporary:
        # a macro block of 2 keeps the size of pictures that are no multiple of 16
        export_to_video(list(frames), str(temporary), fps=fps, quality=8, macro_block_size=2)  # pyright: ignore
