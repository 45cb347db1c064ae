"""How good the pocket model is, against the world's ground truth.

    python benchmarks/pocket_quality.py [--photos DIR] [--images 500] [--out quality.json]

Needs the probe beside the weights (`python -m dreambooth.pocket.pretrain stages=[probe,export]`).
Every figure follows from --seed but the time. Rows whose part is missing are left out and named.

  vae          mean over pictures of the PSNR in dB of 64 px pictures through encoder (posterior
               mean) and decoder: rendered scenes of held-out identities, real photos cut square
  asked        share of pictures of the world's own captions (training combinations) in which the
               probe finds what the caption says: class, colour, context
  held-out     the same for combinations of class, colour and context that training never showed
  probe        the probe's own accuracy on rendered scenes of held-out identities
  diversity    mean pairwise distance of pictures of "a dog", over that of the world's own dogs:
               pocket LPIPS, and Euclidean between scaled VAE latents
  triples      share in which two views of a held-out identity are nearer (pocket DINO) than views
               of two identities of the class, nothing tinted; share in which a picture is nearer
               to its caption than to another scene's (pocket CLIP), and than to its own with one
               part changed
  seconds      16 pictures, 20 steps, guidance
"""

from __future__ import annotations

import argparse
import re
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from PIL import Image, ImageOps

from dreambooth.cache import write_json
from dreambooth.errors import UserError
from dreambooth.generate import Sampling, generate
from dreambooth.metrics.encoders import load_encoder
from dreambooth.metrics.perceptual import pocket_distance
from dreambooth.model.latent_diffusion import LatentDiffusion
from dreambooth.pocket import probe, world
from dreambooth.pocket.encoders import to_pixels
from dreambooth.pocket.scenes import photo_files
from dreambooth.pocket.weights import weights_folder

FIRST = 30_000_000  # scenes from this seed on: neither pretraining nor the probe saw them
SAMPLING = Sampling(20, 4.0, 64, 16)


def rendered(scenes: list[world.Scene]) -> np.ndarray:
    return np.stack([world.render(scene) for scene in scenes])


def pictures(
    model: LatentDiffusion, prompts: list[str], seed: int, sampling: Sampling = SAMPLING
) -> list[Image.Image]:
    """One picture a prompt, by DDIM; 20 steps with guidance 4 where nothing else is said."""
    pipeline = model.pipeline(DDIMScheduler.from_config(model.noise_scheduler.config))
    return generate(pipeline, prompts, range(seed, seed + len(prompts)), sampling)


def arrays(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


@torch.no_grad()
def psnr(model: LatentDiffusion, images: np.ndarray) -> float:
    """Mean PSNR in dB over `[N,64,64,3]` uint8 of what the VAE gives back."""
    values = []
    for start in range(0, len(images), 32):
        pixels = to_pixels(images[start : start + 32], "cpu")
        decoded = model.vae.decode(model.encode(pixels)[0]).sample.clamp(-1, 1)
        mse = ((decoded - pixels) / 2).square().mean((1, 2, 3))
        values += (-10 * mse.log10()).tolist()
    return float(np.mean(values))


def photos_at_64(folder: Path) -> np.ndarray:
    """Every photo below `folder`, cut square in the middle."""
    rows = []
    for path in photo_files(folder):
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        rows.append(np.asarray(image.resize((64, 64), Image.Resampling.BOX, box=box)))
    return np.stack(rows)


def asked(caption: str, scene: world.Scene) -> dict[str, str]:
    """The facts of the scene that its caption says."""
    said, noun = probe.facts(scene), scene.identity.class_noun
    context = world.CONTEXTS[scene.view.context].lower()
    before = f" {caption.removesuffix(context)} ".split(f" {noun} ")[0]
    if said["color"] not in before.split():
        del said["color"]
    if not context or not caption.endswith(context):
        del said["context"]
    return said


def articles(text: str) -> str:
    """"a" or "an" by the letter that follows."""
    vowel = lambda match: f"a{'n' * (match[1] in 'aeiou')} {match[1]}"  # noqa: E731
    return re.sub(r"\ban? (\w)", vowel, text)


def found(model, judge, prompts: list[str], wanted: list[dict], seed: int) -> dict[str, float]:
    """Share of pictures that show each fact asked for, and all that was asked."""
    seen = probe.judge(judge, arrays(pictures(model, prompts, seed)))
    hits: dict[str, list[bool]] = {name: [] for name in (*probe.HEADS, "all")}
    for facts, picture in zip(wanted, seen, strict=True):
        for name, word in facts.items():
            hits[name].append(picture[name] == word)
        hits["all"].append(all(picture[name] == word for name, word in facts.items()))
    return {name: float(np.mean(values)) for name, values in hits.items() if values}


def following(model: LatentDiffusion, judge: probe.Probe, count: int, seed: int) -> dict:
    """Pictures of sampled captions, and of held-out combinations."""
    scenes = [world.sample_scene(FIRST + seed * 10**6 + i) for i in range(count)]
    captions = [world.caption(s, np.random.default_rng([seed, i])) for i, s in enumerate(scenes)]
    wanted = [asked(c, s) for c, s in zip(captions, scenes, strict=True)]
    every = [each for each in product(*probe.HEADS.values()) if world.held_out_combination(*each)]
    order = np.random.default_rng(seed).permutation(len(every))[:count]
    held = [dict(zip(probe.HEADS, every[i], strict=True)) for i in order]
    prompts = [f"a {h['color']} {h['class']} {world.CONTEXTS[h['context']]}".lower() for h in held]
    prompts = [articles(prompt) for prompt in prompts]
    unseen = [world.sample_scene(FIRST + i, "held_out") for i in range(count)]
    return {
        "asked": found(model, judge, captions, wanted, 0),
        "held-out": found(model, judge, prompts, held, 10**6),
        "probe": probe.accuracy(judge, unseen),
    }


@torch.no_grad()
def latent_spread(model: LatentDiffusion, images: np.ndarray) -> float:
    """Mean Euclidean distance between the scaled latents of every two pictures."""
    mean = model.encode(to_pixels(images, "cpu"))[0] * model.vae.config.scaling_factor
    return torch.pdist(mean.flatten(1).double()).mean().item()


def diversity(model: LatentDiffusion, distance, count: int) -> dict[str, float]:
    """Spread of "a dog", as a share of the world's own."""
    drawn = pictures(model, ["a dog"] * count, 2 * 10**6)
    own = rendered([world.sample_scene(FIRST + i, "train", "dog") for i in range(count)])
    result = {"latents": latent_spread(model, arrays(drawn)) / latent_spread(model, own)}
    if distance is not None:
        pairs = torch.triu_indices(count, count, 1)
        drawn_mean, own_mean = (
            distance.distance(images, 16)[pairs[0], pairs[1]].mean().item()
            for images in (drawn, [Image.fromarray(image) for image in own])
        )
        result["lpips"] = drawn_mean / own_mean
    return result


def views_of(who: world.Identity, rng: np.random.Generator, count: int) -> list[world.Scene]:
    return [world.identity_scene(who, int(s)) for s in rng.integers(2**31, size=count)]


def identity_triples(dino, count: int, seed: int) -> float:
    scenes, rng = [], np.random.default_rng([seed, 11])
    for i in range(count):
        noun = world.CLASSES[i % len(world.CLASSES)]
        who = other = world.sample_identity(noun, rng, "held_out")
        while look(other) == look(who):
            other = world.sample_identity(noun, rng, "held_out")
        scenes += [*views_of(who, rng, 2), *views_of(other, rng, 1)]
    features = dino.images([Image.fromarray(image) for image in rendered(scenes)])
    first, second, third = features.unflatten(0, (count, 3)).unbind(1)
    return ((first * second).sum(1) > (first * third).sum(1)).double().mean().item()


def look(who: world.Identity) -> tuple:
    """What makes two identities different subjects, proportions aside."""
    return (who.main_color, who.second_color, who.pattern, who.detail)


def caption_pairs(count: int, seed: int) -> list[tuple[world.Scene, str, str, str]]:
    """Scenes with a true caption, another scene's that is false, and one with one part changed."""
    rows, rng = [], np.random.default_rng([seed, 12])
    while len(rows) < count:
        scene, other = (world.sample_scene(int(s), "held_out") for s in rng.integers(2**31, size=2))
        right, wrong = world.caption(scene, rng), world.caption(other, rng)
        said, facts = asked(wrong, other), probe.facts(scene)
        mine = asked(right, scene)
        part = list(mine)[rng.integers(len(mine))]
        phrases = world.CONTEXTS if part == "context" else {w: w for w in probe.HEADS[part]}
        others = [phrase.lower() for w, phrase in phrases.items() if phrase and w != mine[part]]
        changed = right.replace(phrases[mine[part]].lower(), others[rng.integers(len(others))], 1)
        if any(facts[name] != word for name, word in said.items()):
            rows.append((scene, right, wrong, articles(changed)))
    return rows


def triples(dino, clip, count: int, seed: int) -> dict[str, float]:
    rows = caption_pairs(count, seed)
    images = clip.images([Image.fromarray(image) for image in rendered([row[0] for row in rows])])
    right, wrong, changed = ((images * clip.texts([row[k] for row in rows])).sum(1)
                             for k in (1, 2, 3))  # fmt: skip
    return {
        "identity": identity_triples(dino, count, seed),
        "caption": (right > wrong).double().mean().item(),
        "one part": (right > changed).double().mean().item(),
    }


def measure(args: argparse.Namespace) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Every figure that can be had, and a sentence for each that cannot."""
    model = LatentDiffusion.from_pretrained(str(args.weights))
    table, absent = {}, []
    held = [world.sample_scene(FIRST + i, "held_out") for i in range(args.images)]
    table["vae"] = {"scenes": psnr(model, rendered(held))}
    if args.photos is not None:
        table["vae"]["photos"] = psnr(model, photos_at_64(args.photos))
    try:
        table |= following(model, probe.load_probe(args.weights), args.images, args.seed)
    except UserError as error:
        absent.append(str(error))
    dino = distance = None
    try:
        dino, clip = (load_encoder(f"pocket_{kind}", encoders_dir=args.weights / "encoders")
                      for kind in ("dino", "clip"))  # fmt: skip
        distance = pocket_distance(dino)
        table["triples"] = triples(dino, clip, args.images, args.seed)
    except UserError as error:
        absent.append(str(error))
    table["diversity"] = diversity(model, distance, min(args.images, 64))
    pictures(model, ["a dog"] * 2, 0)  # warm
    started = time.perf_counter()
    pictures(model, ["a dog"] * 16, 0)
    table["seconds"] = {"16 pictures": time.perf_counter() - started}
    return table, absent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="a pipeline folder; default the package's")
    parser.add_argument("--photos", type=Path, help="real photos, searched recursively")
    parser.add_argument("--images", type=int, default=500, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    try:
        args.weights = args.weights or weights_folder()
        table, absent = measure(args)
    except UserError as error:
        raise SystemExit(str(error)) from None
    for row, values in table.items():
        print(f"{row:10s}", "  ".join(f"{name} {value:.3f}" for name, value in values.items()))
    for sentence in absent:
        print("left out:", sentence)
    if args.out:
        write_json(args.out, {"images": args.images, "seed": args.seed, **table})


if __name__ == "__main__":
    main()
