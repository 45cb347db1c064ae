"""Make sheets of pictures of the embedded model.

  python benchmarks/pocket_sheets.py docs/images [--model pocket_flow] [--run RUN_FOLDER]

pocket_world.png     every class as the world renders it, in six contexts
pocket_drawn.png     the same captions drawn by the model, without selection; named after --model
pocket_training.png  with --run: the run's samples of the first seed at every step that it kept
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from pocket_quality import load, pictures
from pocket_truth import articles

from dreambooth.pocket import world
from dreambooth.pocket.embedded import FOLDERS, weights_folder
from dreambooth.sampling.grid import grid
from dreambooth.sampling.manifest import read_manifest

COLUMNS = 6
CELL = 96  # px
FIRST = 40_000_000  # scenes from this seed on, which no network was trained on


def asked() -> list[world.Scene]:
    """Draw `COLUMNS` scenes of every class, with the contexts in turn."""
    contexts = [name for name in world.CONTEXTS if name != "plain"]
    return [
        world.sample_scene(FIRST + i, "any", noun, context=contexts[i % len(contexts)])
        for i, noun in enumerate(np.repeat(world.CLASSES, COLUMNS).tolist())
    ]


def prompt_of(scene: world.Scene) -> str:
    """Write a prompt with a scene's colour, class and context."""
    seen = scene.seen
    context = world.CONTEXTS[scene.view.context]
    return articles(f"a {seen.main_color} {seen.class_noun} {context}".lower())


def labels(scenes: list[world.Scene]) -> list[str]:
    """Label every row of `COLUMNS` scenes of one class with their colours and contexts."""
    parts = [f"{scene.seen.main_color} {scene.view.context}" for scene in scenes]
    return [
        f"{scenes[i].identity.class_noun}: {', '.join(parts[i : i + COLUMNS])}"
        for i in range(0, len(scenes), COLUMNS)
    ]


def training(run: Path) -> Image.Image:
    """Make a grid with one row per prompt and one column per kept step, of the first seed."""
    folders = [*sorted((run / "samples").glob("step-*/")), run / "samples" / "final"]
    items = {folder: [i for i in read_manifest(folder) if i.seed == 0] for folder in folders}
    prompts = [item.prompt for item in items[folders[-1]]]
    images = [
        Image.open(folder / items[folder][row].file)
        for row in range(len(prompts))
        for folder in folders
    ]
    steps = [folder.name.removeprefix("step-").lstrip("0") or "0" for folder in folders]
    return grid(images, len(folders), [f"{p}: steps {', '.join(steps)}" for p in prompts], 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", type=Path, help="the folder to write into")
    parser.add_argument("--model", choices=[*FOLDERS], default="pocket", help="that draws")
    parser.add_argument("--run", type=Path, help="a finished run")
    args = parser.parse_args()
    args.target.mkdir(parents=True, exist_ok=True)
    scenes = asked()
    prompts = [prompt_of(scene) for scene in scenes]
    rendered = [Image.fromarray(world.render(scene)) for scene in scenes]
    grid(rendered, COLUMNS, labels(scenes), CELL).save(args.target / "pocket_world.png")
    drawn = pictures(load(weights_folder(args.model)), prompts, 0, guidance_scale=3.0)
    grid(drawn, COLUMNS, labels(scenes), CELL).save(args.target / f"{args.model}_drawn.png")
    if args.run is not None:
        training(args.run).save(args.target / "pocket_training.png")


if __name__ == "__main__":
    main()
