"""Seconds per optimizer step: ours, the bare floor, and a per-step pipeline as diffusers' script.

All three train the same weights on the same photos and alternate in one run, so that their
ratios hold when the machine's speed drifts.

  a  ours: the real Trainer and LightningModule, logging on, latents and prompts cached
  b  the floor: U-Net forward, backward, clip and fused AdamW on ready latents
  c  as train_dreambooth.py works: each step opens and decodes the photos, encodes them by the
     VAE, runs the text encoder; then as b

    python benchmarks/step_time.py --photos DIR                      # the pocket model
    python benchmarks/step_time.py --photos DIR --model sd15-random  # SD 1.5's size, random weights
    python benchmarks/step_time.py --photos DIR --model PATH --resolution 512 --device cuda --bf16
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from random_pipeline import random_pipeline
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms

from dreambooth.data.batches import DreamBoothData, KeyedBatches
from dreambooth.data.crops import Crops
from dreambooth.data.latents import encode_examples
from dreambooth.data.photos import list_photos
from dreambooth.diffusion.process import UniformTimesteps
from dreambooth.heap import keep_heap
from dreambooth.model.phases import Phase
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.model.trainable import TrainableWeights
from dreambooth.pocket.embedded import model_path
from dreambooth.training.logs.memory import free_memory
from dreambooth.training.logs.progress import LogEveryNSteps, Rates, TrainingBar
from dreambooth.training.logs.run_log import RunLog
from dreambooth.training.module import DreamBooth
from dreambooth.training.safety import StopOnNonFinite
from dreambooth.training.spec import Loss, OptimizerSpec, PhaseSpec

LR = 1e-6
PARTS = Phase("full", "frozen")
PROMPTS = ("a sks dog", "a dog")


class Clock(pl.Callback):
    """The time at the end of every training step."""

    def __init__(self, device: str) -> None:
        self.device, self.times = device, []

    def on_train_batch_end(self, *_) -> None:
        self.times.append(now(self.device))


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def gaps(times: list[float]) -> list[float]:
    """Seconds of each step but the first, which allocates."""
    return [b - a for a, b in zip(times, times[1:], strict=False)][1:]


def ours(args, weights, batches, folder) -> list[float]:
    optimizer = partial(torch.optim.AdamW, fused=True, weight_decay=1e-2)
    optimization = OptimizerSpec(optimizer, None, "constant", 0, 1.0, 1, None)
    module = DreamBooth(weights, Loss(1.0), optimization, PhaseSpec(PARTS, LR, args.steps))
    module.embed_once(PROMPTS)
    clock = Clock(args.device)
    trainer = pl.Trainer(
        accelerator="gpu" if args.device == "cuda" else "cpu",
        devices=1,
        max_steps=args.steps,
        max_epochs=-1,
        precision="bf16-mixed" if args.bf16 else "32-true",
        log_every_n_steps=10,
        logger=False,
        enable_checkpointing=False,
        callbacks=[
            Rates(2),
            LogEveryNSteps(0, RunLog(folder).add),
            TrainingBar(has_prior=True),
            StopOnNonFinite(list(weights.parameters().values()), 10),
            clock,
        ],
        enable_progress_bar=False,  # Lightning's own
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, DreamBoothData(batches))
    weights.model.to(args.device)
    return gaps(clock.times)


def optimize(args, model, optimizer, latents, noise, timesteps, embeddings) -> None:
    with torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
        noisy = model.noise_scheduler.add_noise(latents, noise, timesteps)
        prediction = model.unet(noisy, timesteps, embeddings).sample
    instance, prior = prediction.float().chunk(2)
    target, target_prior = noise.chunk(2)
    (F.mse_loss(instance, target) + F.mse_loss(prior, target_prior)).backward()
    torch.nn.utils.clip_grad_norm_(model.unet.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def floor(args, weights, batches, folder) -> list[float]:
    model = weights.model
    optimizer = torch.optim.AdamW(model.unet.parameters(), lr=LR, fused=True)
    batch = batches.batch(0)
    latents = model.sample_latents(batch["mean"], batch["logvar"], batch["posterior_noise"])
    latents, noise, timesteps = (
        t.to(args.device) for t in (latents, batch["noise"], batch["timesteps"])
    )
    with torch.no_grad():
        embeddings = model.embed(list(PROMPTS)).tokens
    times = []
    for _ in range(args.steps):
        optimize(args, model, optimizer, latents, noise, timesteps, embeddings)
        times.append(now(args.device))
    return gaps(times)


class PhotoDataset(torch.utils.data.Dataset):
    """Opens and decodes one instance and one class photo an item, as the script's dataset."""

    def __init__(self, args, model, photos, class_photos) -> None:
        self.photos, self.class_photos, self.tokenizer = photos, class_photos, model.tokenizer
        self.transform = transforms.Compose(
            [
                transforms.Resize(args.resolution, transforms.InterpolationMode.BILINEAR),
                transforms.CenterCrop(args.resolution),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> dict:
        from PIL import Image
        from PIL.ImageOps import exif_transpose

        pixels = []
        for files in (self.photos, self.class_photos):
            image = exif_transpose(Image.open(files[index % len(files)]))
            pixels.append(self.transform(image if image.mode == "RGB" else image.convert("RGB")))
        ids = self.tokenizer(
            list(PROMPTS),
            padding="max_length",
            truncation=True,
            return_tensors="pt",
            max_length=self.tokenizer.model_max_length,
        ).input_ids
        return {"pixels": torch.stack(pixels), "ids": ids}


def per_step_pipeline(args, weights, batches, folder, photos, class_photos) -> list[float]:
    model = weights.model
    optimizer = torch.optim.AdamW(model.unet.parameters(), lr=LR)
    loader = iter(DataLoader(PhotoDataset(args, model, photos, class_photos), batch_size=None))
    times = []
    for _ in range(args.steps):
        item = next(loader)
        with torch.no_grad(), torch.autocast(args.device, torch.bfloat16, enabled=args.bf16):
            posterior = model.vae.encode(item["pixels"].to(args.device)).latent_dist
            latents = posterior.sample().float() * model.vae.config.scaling_factor
            embeddings = model.text_encoder(item["ids"].to(args.device))[0]
        noise = torch.randn_like(latents)
        timesteps = torch.randint(1000, (len(latents),), device=args.device)
        optimize(args, model, optimizer, latents, noise, timesteps, embeddings)
        times.append(now(args.device))
    return gaps(times)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="instance and class photos")
    parser.add_argument("--model", default="pocket", help="pocket, sd15-random, or a path")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--shrink", type=int, help="shrink the photos to this side first")
    parser.add_argument("--steps", type=int, default=22, help="of a round; the first two are left")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--without-c", action="store_true", help="compare a with b alone")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    keep_heap()  # as the commands do
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photos = list_photos(args.photos)
        if args.shrink:
            photos = shrink(photos, args.shrink, folder / "photos")
        if args.model == "sd15-random":
            args.model = str(random_pipeline("sd15", folder / "sd15"))
        model = StableDiffusion.from_pretrained(model_path(args.model))
        model.to(args.device)
        weights = TrainableWeights(model, seed=0)
        weights.prepare(PARTS)
        encode = partial(
            encode_examples, model, photos, crops=Crops(args.resolution), seed=0, cache_dir=folder
        )
        instance, prior = (encode([prompt] * len(photos)) for prompt in PROMPTS)
        batches = KeyedBatches(instance, prior, 1, 1, UniformTimesteps(1000), 0)
        ways = {"a": ours, "b": floor}
        if not args.without_c:
            ways["c"] = partial(per_step_pipeline, photos=photos, class_photos=photos)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for name, way in ways.items():
                seconds[name] += way(args, weights, batches, folder)
                model.unet.zero_grad(set_to_none=True)
                free_memory()  # a Trainer would keep its optimizer state beside the next
    show(args, {name: statistics.median(values) for name, values in seconds.items()})


def shrink(photos: list[Path], side: int, folder: Path) -> list[Path]:
    """The photos at a smaller side, as a careful user would prepare them."""
    from PIL import Image

    folder.mkdir()
    for photo in photos:
        image = Image.open(photo).convert("RGB")
        image.thumbnail((side, side))
        image.save(folder / f"{photo.stem}.jpg", quality=95)
    return list_photos(folder)


def show(args: argparse.Namespace, median: dict[str, float]) -> None:
    names = {"a": "ours, in the Trainer", "b": "floor", "c": "decoding and encoding in the step"}
    for name, value in median.items():
        print(f"{name}  {value * 1000:9.1f} ms a step   {names[name]}")
    ratios = {"a/b": median["a"] / median["b"]}
    if "c" in median:
        ratios["c/a"] = median["c"] / median["a"]
    for name, value in ratios.items():
        print(f"{name}  {value:.3f}")
    if args.out:
        record = {k: str(v) for k, v in vars(args).items() if k not in ("out", "photos")}
        args.out.write_text(json.dumps({**record, "seconds": median, **ratios}, indent=2) + "\n")


if __name__ == "__main__":
    main()
