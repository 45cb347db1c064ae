"""What idle OpenMP threads cost: images and training steps alone, and beside other processes.

A thread that waits for the others of its process spins for a while before it sleeps. That is quick
on free cores, and slow where another process needs the core: the spinning thread then keeps the
thread that it waits for from running. libgomp reads the length from GOMP_SPINCOUNT, or from
OMP_WAIT_POLICY, when torch is imported. `cli/main.py` sets the default that this script chose.

Each setting is measured in processes of its own and compared with the first:

  alone   nothing else runs
  twin    beside a second process that draws images with as many threads and the same setting
  busy    beside a single-threaded process that takes one core

    python benchmarks/threads.py                   # about 5 minutes on two cores

Measured on two cores, in seconds (torch 2.14, one run). Of these, 10000 is the smallest that costs
nothing on free cores:

                           alone            twin             busy
                           images  steps    images  steps    images  steps
  unset                      0.51   2.46      2.15  15.38      6.47  23.15
  GOMP_SPINCOUNT=10000       0.50   2.53      1.67  11.25      1.57   9.80
  GOMP_SPINCOUNT=1000        0.76   3.69      1.03   4.67      1.02   4.62
  OMP_WAIT_POLICY=PASSIVE    0.72   4.50      0.95   4.02      0.98   4.05
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SETTINGS = ("", "GOMP_SPINCOUNT=10000", "GOMP_SPINCOUNT=1000", "OMP_WAIT_POLICY=PASSIVE")
IMAGES, DENOISING_STEPS, TRAINING_STEPS, BATCH = 16, 5, 20, 8


def workloads() -> dict[str, Callable[[], object]]:
    """The embedded model's two kinds of work: 16 images, and 20 optimizer steps of 8 examples."""
    import torch
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    from dreambooth.pocket.embedded import FOLDER

    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER).to(torch.float32)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    unet = pipeline.unet
    size, channels = unet.config.sample_size, unet.config.in_channels
    latents = torch.randn(BATCH, channels, size, size, generator=torch.Generator().manual_seed(0))
    timesteps = torch.arange(BATCH) * 100
    text = pipeline.encode_prompt("a dog", "cpu", BATCH, False)[0].detach()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-6, fused=True)

    def images() -> None:
        pipeline(["a dog"] * IMAGES, num_inference_steps=DENOISING_STEPS, guidance_scale=3.0)

    def steps() -> None:
        for _ in range(TRAINING_STEPS):
            unet(latents, timesteps, text).sample.square().mean().backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return {"images": images, "steps": steps}


def work() -> None:
    """Answer each workload's name on standard input with the seconds that it took."""
    named = workloads()
    for function in named.values():
        function()  # allocates
    print("ready", flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        named[line.strip()]()
        print(time.perf_counter() - begun, flush=True)


class Worker:
    """A process that does the workloads under one setting."""

    def __init__(self, setting: str, threads: int) -> None:
        kept = {key: value for key, value in os.environ.items() if key not in VARIABLES}
        chosen = dict([setting.split("=")]) if setting else {}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work"],
            env={**kept, **chosen, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdin and self.process.stdout
        self.requests, self.answers = self.process.stdin, self.process.stdout

    def wait_until_ready(self) -> None:
        while "ready" not in (line := self.answers.readline()):
            assert line, "a worker failed to start"

    def ask(self, names: str) -> None:
        self.requests.write(names)
        self.requests.flush()

    def seconds(self, name: str) -> float:
        self.ask(f"{name}\n")
        return float(self.answers.readline())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def beside(other: str, setting: str, threads: int) -> Iterator[None]:
    """Keep another process working: `twin`, `busy`, or none with `alone`."""
    if other == "twin":
        twin = Worker(setting, threads)
        twin.wait_until_ready()
        twin.ask("images\n" * 1000)
        stop = twin.stop
    elif other == "busy":
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        stop = busy.kill
    else:
        stop = lambda: None  # noqa: E731
    try:
        time.sleep(0.5 if other != "alone" else 0)  # until it works
        yield
    finally:
        stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="to compare")
    parser.add_argument("--repeats", type=int, default=2, help="the median is shown")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work()
        return
    columns = [(other, name) for other in ("alone", "twin", "busy") for name in ("images", "steps")]
    print(f"{args.threads} threads; seconds, and in brackets the ratio to the first row")
    print(f"{'':24}", *(f"{f'{other} {name}':>15}" for other, name in columns), flush=True)
    first: list[float] = []
    for setting in args.settings:
        worker, row = Worker(setting, args.threads), []
        worker.wait_until_ready()
        for other in ("alone", "twin", "busy"):
            with beside(other, setting, args.threads):
                for name in ("images", "steps"):
                    taken = [worker.seconds(name) for _ in range(args.repeats)]
                    row.append(statistics.median(taken))
        worker.stop()
        first = first or row
        cells = (f"{s:7.2f} ({s / f:4.2f})" for s, f in zip(row, first, strict=True))
        print(f"{setting or 'unset':24}", *(f"{cell:>15}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
