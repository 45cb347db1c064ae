"""Measure an embedded model against the world's ground truth.

    python benchmarks/pocket_quality.py [--photos DIR] [--images 500] [--out quality.json]
    python benchmarks/pocket_quality.py --model pocket_flow

It needs the probe beside the weights (`dreambooth pretrain stages=[probe,export]`). Rows whose part
is missing in the weights' folder are left out and named. pocket_flow has the autoencoder, encoders
and probe of pocket, so that only the rows of its pictures are measured. Every share is printed with
its number of cases and Wilson's 95 % interval.

  vae          mean PSNR in dB of 64 px pictures after encoder (posterior mean) and decoder:
               rendered scenes of held-out identities, and real photos, cut square. Pretraining may
               have trained the VAE on crops of the same photos: for an honest figure, give --photos
               a folder of others
  asked        share of pictures drawn from the world's own captions (of combinations that training
               showed) in which the probe finds what the caption names: class, colour, context
  held-out     the same for combinations of class, colour and context that training never showed,
               one picture of each
  probe        the probe's own accuracy on rendered scenes of held-out identities
  diversity    mean pairwise distance of pictures of "a dog", divided by that of the world's own
               dogs: pocket LPIPS, and Euclidean distance of scaled VAE latents
  triples      identity: share of triples in which two views of a held-out identity are nearer
               (pocket DINO) than views of two identities of the class, without tints. This row has
               the aim: a tint paints the main colour, so that the picture shows another subject.
               "identity, tints too": the same identities in views as the world draws them, 8 % of
               them tinted. caption: share of pictures nearer to their caption than to another
               scene's (pocket CLIP). one part: than to their own caption with one part changed
  seconds      for 16 pictures with 20 steps and guidance; and scenes rendered per second by one
               process

Every draw depends on --seed, so that another seed is an independent repeat on the same weights. The
exceptions are real photos and held-out combinations, of which there are few: 127 images or more use
all combinations. Within one seed, vae and probe use the same scenes, and both identity rows the
same identities. Seconds depend on the machine.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from pocket_truth import (
    Share,
    articles,
    as_json,
    asked,
    hits,
    identity_triples,
    nearer,
    preferred,
    rendered,
    shown,
)

from dreambooth.data.photos import load_photo
from dreambooth.errors import UserError
from dreambooth.files import write_json
from dreambooth.metrics.encoders import Encoder, load_encoder
from dreambooth.metrics.lpips_networks import pocket_distance
from dreambooth.metrics.perceptual import PerceptualDistance
from dreambooth.model.architectures import architecture_of, load_model
from dreambooth.model.interface import BaseModel
from dreambooth.model.stable_diffusion_3 import StableDiffusion3
from dreambooth.pocket import world
from dreambooth.pocket.embedded import FOLDERS, weights_folder, weights_hash
from dreambooth.pocket.pretraining import probe
from dreambooth.pocket.pretraining.device import to_pixels
from dreambooth.pocket.pretraining.photo_crops import photo_files
from dreambooth.sampling.draw import draw
from dreambooth.sampling.spec import Sampling

FIRST = 30_000_000  # scenes from this seed on: neither pretraining nor the probe used them
SEEDS = 10**6  # scene seeds that one --seed may use; pictures have three such ranges


def load(folder: Path) -> BaseModel:
    """Load an embedded model; without T5, no zeros stand in its place."""
    has_zeros = issubclass(architecture_of(str(folder)), StableDiffusion3)
    return load_model(str(folder), max_sequence_length=0 if has_zeros else None)


def pictures(
    model: BaseModel, prompts: list[str], seed: int, guidance_scale: float = 4.0
) -> list[Image.Image]:
    """Draw one picture per prompt in 20 steps, with DDIM or, by flow matching, with Euler's."""
    name = "FlowMatchEulerDiscreteScheduler" if model.process.is_flow else "DDIMScheduler"
    sampling = Sampling(name, 20, guidance_scale, 64, 16)
    return draw(model, prompts, range(seed, seed + len(prompts)), sampling)


def arrays(images: list[Image.Image]) -> np.ndarray:
    """Convert pictures to `[N,H,W,3]` uint8."""
    return np.stack([np.asarray(image) for image in images])


@torch.no_grad()
def psnr(model: BaseModel, images: np.ndarray) -> float:
    """Compute the mean PSNR in dB of images `[N,64,64,3]` uint8 after the VAE."""
    values, vae = [], cast(Any, model.vae)
    for start in range(0, len(images), 32):
        pixels = to_pixels(images[start : start + 32], "cpu")
        decoded = vae.decode(model.encode(pixels)[0]).sample.clamp(-1, 1)
        mse = ((decoded - pixels) / 2).square().mean((1, 2, 3))
        values += (-10 * mse.log10()).tolist()
    return float(np.mean(values))


def photos_at_64(folder: Path) -> np.ndarray:
    """Load every photo below `folder`, cut square in the middle, `[N,64,64,3]` uint8."""
    rows = []
    for path in photo_files(folder):
        image = load_photo(path)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        rows.append(np.asarray(image.resize((64, 64), Image.Resampling.BOX, box=box)))
    return np.stack(rows)


def found(
    model: BaseModel, judge: probe.Probe, prompts: list[str], wanted: list[dict], seed: int
) -> dict[str, Share]:
    """Draw the prompts and compute the share of pictures that show what was asked for."""
    return hits(probe.judge(judge, arrays(pictures(model, prompts, seed))), wanted)


def following(model: BaseModel, judge: probe.Probe, count: int, seed: int) -> dict:
    """Measure pictures of sampled captions and of held-out combinations, and the probe itself."""
    scenes = [world.sample_scene(FIRST + seed * SEEDS + i) for i in range(count)]
    captions = [world.caption(s, np.random.default_rng([seed, i])) for i, s in enumerate(scenes)]
    wanted = [asked(c, s) for c, s in zip(captions, scenes, strict=True)]
    every = [each for each in product(*probe.HEADS.values()) if world.held_out_combination(*each)]
    order = np.random.default_rng(seed).permutation(len(every))[:count]
    held = [dict(zip(probe.HEADS, every[i], strict=True)) for i in order]
    prompts = [f"a {h['color']} {h['class']} {world.CONTEXTS[h['context']]}".lower() for h in held]
    prompts = [articles(prompt) for prompt in prompts]
    right = probe.accuracy(judge, unseen(count, seed))
    return {
        "asked": found(model, judge, captions, wanted, 3 * SEEDS * seed),
        "held-out": found(model, judge, prompts, held, 3 * SEEDS * seed + SEEDS),
        "probe": {name: Share(value, count) for name, value in right.items()},
    }


def unseen(count: int, seed: int) -> list[world.Scene]:
    """Draw scenes of held-out identities."""
    return [world.sample_scene(FIRST + seed * SEEDS + i, "held_out") for i in range(count)]


@torch.no_grad()
def latent_spread(model: BaseModel, images: np.ndarray) -> float:
    """Compute the mean Euclidean distance between the scaled latents of every two pictures."""
    scale = cast(Any, model.vae).config.scaling_factor
    mean = model.encode(to_pixels(images, "cpu"))[0] * scale
    return torch.pdist(mean.flatten(1).double()).mean().item()


def diversity(
    model: BaseModel, distance: PerceptualDistance | None, count: int, seed: int
) -> dict[str, float]:
    """Compute the spread of pictures of "a dog", as a share of that of the world's own dogs."""
    drawn = pictures(model, ["a dog"] * count, 3 * SEEDS * seed + 2 * SEEDS)
    first = FIRST + seed * SEEDS
    own = rendered([world.sample_scene(first + i, "train", "dog") for i in range(count)])
    result = {"latents": latent_spread(model, arrays(drawn)) / latent_spread(model, own)}
    if distance is not None:
        pairs = torch.triu_indices(count, count, 1)
        drawn_mean, own_mean = (
            distance.distance(images, 16)[pairs[0], pairs[1]].mean().item()
            for images in (drawn, [Image.fromarray(image) for image in own])
        )
        result["lpips"] = drawn_mean / own_mean
    return result


def own_encoder(kind: str, weights: Path) -> Encoder:
    """Load an encoder from the folder itself, and never the package's where it is missing.

    Raises:
        UserError: the folder has no such encoder.
    """
    if not (weights / "encoders" / kind / "config.json").is_file():
        raise UserError(
            f"{weights} has no encoders/{kind}: train it with "
            "`dreambooth pretrain stages=[encoders,export]`."
        )
    return load_encoder(f"pocket_{kind}", encoders_dir=weights / "encoders")


def speed(model: BaseModel, seed: int) -> dict[str, float]:
    """Time 16 pictures once warm, and count scenes that one process renders per second."""
    pictures(model, ["a dog"] * 2, seed)  # warm
    started = time.perf_counter()
    pictures(model, ["a dog"] * 16, seed)
    drawn = time.perf_counter()
    rendered([world.sample_scene(FIRST + seed * SEEDS + i) for i in range(300)])
    rate = 300 / (time.perf_counter() - drawn)
    return {"16 pictures": drawn - started, "scenes per second": rate}


def measure(args: argparse.Namespace) -> tuple[dict[str, dict[str, float | Share]], list[str]]:
    """Measure every row whose part is there, and say in a sentence what each other row lacks."""
    model, table, absent = load(args.weights), {}, []
    if args.judges != args.weights:
        table |= following(model, probe.load_probe(args.judges), args.images, args.seed)
        del table["probe"]
        distance = pocket_distance(own_encoder("dino", args.judges))
        table["diversity"] = diversity(model, distance, min(args.images, 64), args.seed)
        table["seconds"] = speed(model, args.seed)
        return table, absent
    table["vae"] = {"scenes": psnr(model, rendered(unseen(args.images, args.seed)))}
    if args.photos is not None:
        table["vae"]["photos"] = psnr(model, photos_at_64(args.photos))
    try:
        table |= following(model, probe.load_probe(args.weights), args.images, args.seed)
    except UserError as error:
        absent.append(str(error))
    distance, triples = None, {}
    try:
        dino = own_encoder("dino", args.weights)
        distance = pocket_distance(dino)
        for name, tints in (("identity", False), ("identity, tints too", True)):
            triples[name] = nearer(dino, identity_triples(args.images, args.seed, tints))
    except UserError as error:
        absent.append(str(error))
    try:
        triples |= preferred(own_encoder("clip", args.weights), args.images, args.seed)
    except UserError as error:
        absent.append(str(error))
    if triples:
        table["triples"] = triples
    table["diversity"] = diversity(model, distance, min(args.images, 64), args.seed)
    table["seconds"] = speed(model, args.seed)
    return table, absent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=[*FOLDERS], default="pocket")
    parser.add_argument("--weights", type=Path, help="its pipeline folder; default: the package's")
    parser.add_argument("--photos", type=Path, help="real photos, searched recursively")
    parser.add_argument("--images", type=int, default=500, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="0 or more; moves every draw")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    if args.seed < 0 or args.images < 2:
        parser.error("--seed must be 0 or more, and --images 2 or more.")
    try:
        args.weights = args.weights or weights_folder(args.model)
        args.judges = args.weights if args.model == "pocket" else weights_folder()
        facts = {"weights": weights_hash(args.weights), "images": args.images, "seed": args.seed}
        table, absent = measure(args)
    except UserError as error:
        raise SystemExit(str(error)) from None
    for row, figures in table.items():
        print(f"{row:10s}", "  ".join(shown(name, figure) for name, figure in figures.items()))
    for sentence in absent:
        print("left out:", sentence)
    if args.out:
        write_json(args.out, {**facts, **as_json(table)})


if __name__ == "__main__":
    main()
