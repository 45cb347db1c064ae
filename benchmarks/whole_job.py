"""Seconds of a whole job: diffusers' train_dreambooth.py as a user runs it, and ours, alternating.

    python benchmarks/whole_job.py PATH/train_dreambooth.py [--rounds 1] [--ways script,ours]

From the command to the end, each in a fresh process with nothing cached, on the embedded model and
the same five photos: class images, 200 steps at batch 4 + 4, a checkpoint, sample images at steps
100 and 200, the exported pipeline.

  script  diffusers' script; it draws class images in 50 steps and samples in 25, which no option of
          it changes, class images four at a time, its default
  same    train.py with the script's samplers, steps, guidance, prompts and logger, and without
          scores; it draws its samples before training too, and loads its export back
  ours    train.py subject=dog ppl=true as it comes: class images in 20 steps, more samples, scores

The script is diffusers' examples/dreambooth/train_dreambooth.py of a release that the installed
diffusers accepts. What follows `--` goes to it, as --pre_compute_text_embeddings.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import commands

from dreambooth.pocket.embedded import rendered_photos, weights_folder

PROMPT = "a {} in the jungle"
Seconds = dict[str, float]


def script(args: argparse.Namespace, folder: Path) -> Seconds:
    """Run diffusers' script with the settings of our main job."""
    rendered, photos = rendered_photos("dog", "dog", 5, folder / "cache"), folder / "photos"
    photos.mkdir()
    for photo in rendered.glob("*.png"):  # it opens every file that there is
        shutil.copy(photo, photos)
    options = {
        "pretrained_model_name_or_path": weights_folder(),
        "instance_data_dir": photos,
        "class_data_dir": folder / "class",
        "output_dir": folder / "model",
        "instance_prompt": "a sks dog",
        "class_prompt": "a dog",
        "num_class_images": args.class_images,
        "resolution": 64,
        "train_batch_size": 4,
        "learning_rate": 2e-4,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "max_train_steps": args.steps,
        "checkpointing_steps": args.steps,
        "validation_prompt": PROMPT.format("sks dog"),
        "validation_steps": args.steps // 2,
        "seed": 0,
    }
    flags = ["--with_prior_preservation", "--center_crop", *args.options]
    listed = [f"--{name}={value}" for name, value in options.items()]
    return commands.run(args.script, [*listed, *flags], folder)


def ours(args: argparse.Namespace, folder: Path, overrides: tuple[str, ...] = ()) -> Seconds:
    """Run our main job."""
    places = [f"hydra.run.dir='{folder / 'run'}'", f"cache_dir='{folder / 'cache'}'"]
    sizes = [f"max_steps={args.steps}", f"prior.num_class_images={args.class_images}"]
    sizes += [f"samples.every_n_steps={args.steps // 2}", f"checkpoint.every_n_steps={args.steps}"]
    arguments = ["subject=dog", "ppl=true", *sizes, *places, *overrides]
    return commands.run("train.py", arguments, folder)


SAME = (
    "prior.sampler={name: DDPMScheduler, options: {}}",  # the model folder's own
    "prior.num_inference_steps=50",
    "prior.guidance_scale=7.5",
    "scheduler=dpmpp_2m",
    "sampling.num_inference_steps=25",
    "sampling.guidance_scale=7.5",
    f"samples.prompts=['{PROMPT.format('{subject}')}']",
    "samples.seeds=[0,1,2,3]",
    "pairing=diffusers",
    "logger=tensorboard",
    "evaluation=none",
)
WAYS: dict[str, Callable[[argparse.Namespace, Path], Seconds]] = {
    "script": script,
    "same": partial(ours, overrides=SAME),
    "ours": ours,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("script", type=Path, help="diffusers' train_dreambooth.py")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps, an even number")
    parser.add_argument("--class-images", type=int, default=64)
    parser.add_argument("--ways", default=",".join(WAYS), help="the script, and some of the others")
    parser.add_argument("options", nargs="*", help="of the script, after --")
    args = parser.parse_args()
    ways = {way: WAYS[way] for way in args.ways.split(",")}
    args.script = args.script.resolve()
    seconds: dict[str, list[Seconds]] = {way: [] for way in ways}
    for number in range(args.rounds):
        for way, run in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds[way].append(run(args, Path(folder)))
            print(f"round {number + 1}, {way}: {seconds[way][-1]}", flush=True)
    for clock in ("whole", "cpu"):
        first, *others = (statistics.median(each[clock] for each in seconds[way]) for way in ways)
        print(f"{clock:6} {list(ways)[0]} {first:.1f} s", end="")
        for way, value in zip(list(ways)[1:], others, strict=True):
            print(f"   {way} {value:.1f} s, ratio {first / value:.2f}", end="")
        print()


if __name__ == "__main__":
    main()
