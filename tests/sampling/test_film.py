"""Films: their times, palette and frames."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image, ImageSequence

from dreambooth.sampling.film import delays, write_gif, write_mp4

FRAMES = [
    Image.fromarray(np.full((32, 32, 3), (i * 8, 255 - i * 8, 99), np.uint8)) for i in range(20)
]


@pytest.mark.parametrize("fps", [7, 24, 25, 30, 50])
def test_the_times_of_a_gif_add_up_to_the_films(fps):
    times = delays(fps * 4, fps)
    assert sum(times) == 400 and max(times) - min(times) <= 1 and min(times) >= 2


def test_a_gif_shows_every_frame_for_its_time(tmp_path):
    write_gif(FRAMES, tmp_path / "a.gif", 30, '{"prompt": "a 犬"}')
    with Image.open(tmp_path / "a.gif") as film:
        assert film.info["loop"] == 0 and film.info["comment"].decode() == '{"prompt": "a 犬"}'
        shown = [(f.convert("RGB"), f.info["duration"]) for f in ImageSequence.Iterator(film)]
    assert [time for _, time in shown] == [10 * each for each in delays(20, 30)]
    for (frame, _), original in zip(shown, FRAMES, strict=True):
        assert abs(np.asarray(frame).astype(int) - np.asarray(original)).max() <= 4


@pytest.mark.skipif(find_spec("imageio_ffmpeg") is None, reason="imageio-ffmpeg is not installed")
def test_an_mp4_keeps_frames_size_and_speed(tmp_path):
    import imageio.v3 as imageio

    frames = [frame.resize((34, 34)) for frame in FRAMES]
    write_mp4(frames, tmp_path / "a.mp4", 30)
    found = imageio.imread(tmp_path / "a.mp4", plugin="FFMPEG")
    assert found.shape == (20, 34, 34, 3)
    assert imageio.immeta(tmp_path / "a.mp4", plugin="FFMPEG")["fps"] == 30
    for frame, original in zip(found, frames, strict=True):
        assert abs(frame.astype(int) - np.asarray(original)).mean() < 12
