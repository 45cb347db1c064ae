"""A film with a run's model or a base model, drawn by generate.py: `morph.keyframes=5`."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from PIL import Image

from dreambooth.cli.drawing.cells import Cells, filled
from dreambooth.errors import UserError
from dreambooth.files import cache_key, readable_size, write_json
from dreambooth.packages import need
from dreambooth.sampling.film import FASTEST_GIF, delays, write_gif, write_mp4
from dreambooth.sampling.manifest import Item
from dreambooth.sampling.morph import Morph, draw_frames
from dreambooth.sampling.provenance import LOADED_DTYPES, Provenance
from dreambooth.sampling.spec import Sampling
from dreambooth.sampling.store import ImageStore
from dreambooth.study.finished.base_model import PlainWeights
from dreambooth.study.finished.run_weights import RunWeights

NAME, STEP = "morph", 1000  # of the files; from one keyframe's seed to the next


@dataclass(frozen=True)
class Film:
    """A film as the command describes it: what it shows, its speed, side and files."""

    morph: Morph
    fps: float
    size: int
    formats: tuple[str, ...]


def draw_film(cells: Cells, device: str, folder: Path) -> int:
    """Draw the frames that are missing, write the film, remove the frames; return 0.

    Raises:
        UserError: settings that make no film, or a package that is missing, before anything loads.
    """
    (run,), (step,) = cells.runs, cells.values("step")
    weights, cell = cells.weights(run, step), cells.layer(0)[0]
    film = film_of(cells, cell.sampling)
    shown = Provenance(weights.describe(cell.adapter_weight), cell.sampling, LOADED_DTYPES)
    record = {"key": cache_key(**shown.facts, **film.morph.facts, fps=film.fps, size=film.size)}
    files = [folder / f"{NAME}.{kind}" for kind in film.formats]
    if _recorded(folder) == record and all(file.exists() for file in files):
        print("The film is whole already: nothing was drawn.")
    else:
        frames = _frames(weights, shown, film.morph, device, folder / "frames")
        _write(frames, film, files, _comment(shown, film, cell.prompt))
        write_json(folder / f"{NAME}.json", record)
        shutil.rmtree(folder / "frames")
    if "gif" in film.formats:
        times = sorted(set(delays(film.morph.frames, film.fps)))
        shown_for = " or ".join(f"{time / 100:.2f}" for time in times)
        seconds = sum(delays(film.morph.frames, film.fps)) / 100
        print(f"GIF counts hundredths: each frame shows for {shown_for} s, {seconds:.2f} s in all.")
    for file in files:
        print(f"{file} ({readable_size(file.stat().st_size)})")
    return 0


def film_of(cells: Cells, sampling: Sampling) -> Film:
    """Build the film's values.

    Raises:
        UserError: settings that make no film, or a package that is missing.
    """
    cfg: DictConfig = cells.cfg
    block = cfg.morph
    if any(cfg.grid[place] is not None for place in ("x", "y", "z")):
        raise UserError("morph.keyframes makes one film and grid.x a grid: ask for one of them.")
    templates = list(block.prompts) if block.prompts is not None else cells.templates
    if block.prompts is None and len(templates) > 1:
        raise UserError(
            f"prompts holds {len(templates)} prompts: give one, or move between them with "
            "morph.prompts=[...]."
        )
    if block.keyframes == 1 and len(templates) == 1:
        raise UserError("morph.keyframes=1 with one prompt stands still: give 2 or more keyframes.")
    frames, most = round(block.seconds * block.fps), max(block.keyframes, len(templates))
    if frames < most:
        raise UserError(
            f"morph.seconds={block.seconds} at morph.fps={block.fps} are {frames} frames, fewer "
            f"than the {most} pictures to pass: make the film longer."
        )
    words = next(iter(cells.runs.values())).words
    prompts = tuple(filled(template, words, words.phrase) for template in templates)
    seeds = tuple(cells.seeds[0] + STEP * number for number in range(block.keyframes))
    formats = _formats(list(block.formats), block.fps)
    return Film(
        Morph(prompts, seeds, frames), block.fps, block.size or sampling.resolution, formats
    )


def _formats(formats: list[str], fps: float) -> tuple[str, ...]:
    """Leave the MP4 out where its package is missing, with a line, unless it is all that is asked.

    Raises:
        UserError: it is; or a GIF of more frames a second than browsers show.
    """
    if "gif" in formats and fps > FASTEST_GIF:
        raise UserError(
            f"morph.fps={fps} is too fast for a GIF, which browsers show at {FASTEST_GIF} at most: "
            "lower it, or set morph.formats=[mp4]."
        )
    missing = [name for name in ("imageio", "imageio_ffmpeg") if find_spec(name) is None]
    if "mp4" in formats and missing:
        if formats == ["mp4"]:
            need(missing[0].replace("_", "-"), "morph.formats=[mp4]", "set morph.formats=[gif]")
        print(f"No MP4: `pip install imageio imageio-ffmpeg` adds it; {NAME}.gif is made.")
        formats = [kind for kind in formats if kind != "mp4"]
    return tuple(formats)


def _frames(
    weights: RunWeights | PlainWeights, shown: Provenance, morph: Morph, device: str, folder: Path
) -> list[Image.Image]:
    """Draw the frames that `folder` lacks; return all."""
    prompt = " | ".join(morph.prompts)
    items = [
        Item("subject", f"frame_{number:05d}.png", prompt, prompt, -1)
        for number in range(morph.frames)
    ]
    numbers = {item.file: number for number, item in enumerate(items)}
    store = ImageStore(folder, {**shown.facts, **morph.facts})
    if store.missing(items):
        model = weights.load(shown.weights.adapter_weight).to(device)
        store.fill_items(
            lambda part: draw_frames(model, morph, [numbers[i.file] for i in part], shown.sampling),
            items,
            shown.sampling.batch_size,
            title="Frames",
        )
    frames = []
    for item in items:
        with Image.open(folder / item.file) as image:
            frames.append(image.convert("RGB"))
    return frames


def _write(frames: list[Image.Image], film: Film, files: list[Path], comment: str) -> None:
    if film.size != frames[0].width:
        kernel = Image.Resampling.LANCZOS
        frames = [frame.resize((film.size, film.size), kernel) for frame in frames]
    for file in files:
        if file.suffix == ".gif":
            write_gif(frames, file, film.fps, comment)
        else:
            write_mp4(frames, file, film.fps)


def _comment(shown: Provenance, film: Film, prompt: str) -> str:
    """Describe the film as its GIF carries it: JSON, with what makes it again."""
    record = shown.record(prompt, film.morph.seeds[0])
    own = {
        "keyframes": len(film.morph.seeds),
        "seconds": film.morph.frames / film.fps,
        "fps": film.fps,
        "prompts": list(film.morph.prompts),
        "size": film.size,
    }
    return json.dumps({**record, "morph": own}, ensure_ascii=False)


def _recorded(folder: Path) -> Any:
    try:
        return json.loads((folder / f"{NAME}.json").read_text())
    except (OSError, ValueError):
        return None
