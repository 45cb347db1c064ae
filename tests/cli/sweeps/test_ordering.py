"""Jobs of a sweep stand in the order in which they can go on with each other's training."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from dreambooth.cli.sweeps.ordering import ordered


def product(**values: str) -> list[list[str]]:
    """Every combination, as Hydra lists them: the last key varies fastest."""
    lists = [[f"{key}={each}" for each in text.split(",")] for key, text in values.items()]
    return [list(job) for job in itertools.product(*lists)]


def shown(jobs: list[list[str]]) -> list[str]:
    return [" ".join(override.partition("=")[2] for override in job) for job in jobs]


def test_one_after_the_other_the_jobs_of_a_training_stand_together():
    jobs = product(scheduler="ddim,pndm", lr="1,2", max_steps="800,90")
    assert shown(ordered(jobs)) == [
        "ddim 1 90",
        "pndm 1 90",
        "ddim 1 800",
        "pndm 1 800",
        "ddim 2 90",
        "pndm 2 90",
        "ddim 2 800",
        "pndm 2 800",
    ]


def test_in_parallel_they_stand_apart():
    jobs = product(max_steps="800,90", lr="1,2", scheduler="ddim,pndm")
    assert shown(ordered(jobs, in_parallel=True)) == [
        "90 1 ddim",
        "90 2 ddim",
        "90 1 pndm",
        "90 2 pndm",
        "800 1 ddim",
        "800 2 ddim",
        "800 1 pndm",
        "800 2 pndm",
    ]


@pytest.mark.parametrize("in_parallel", [False, True])
def test_what_no_training_shares_keeps_its_order(in_parallel):
    jobs = product(seed="2,1", **{"trainer.precision": "32-true,bf16-mixed"}, max_steps="5")
    assert ordered(jobs, in_parallel) == [list(job) for job in jobs]
    assert ordered([]) == []


@pytest.mark.parametrize(
    ("key", "free"),
    [
        ("scheduler", True),
        ("sampling.guidance_scale", True),
        ("evaluation", True),
        ("hydra.job.name", True),
        ("sampling.dtype", False),  # of the class images
        ("trainer", False),  # which holds precision and devices
        ("photos.use", False),
        ("experiment", False),
    ],
)
def test_a_key_counts_if_a_training_may_depend_on_it(key, free):
    a, b, c = ([f"{key}={value}", f"lr={lr}"] for value, lr in ((1, 1), (1, 2), (2, 1)))
    assert ordered([a, b, c]) == ([a, c, b] if free else [a, b, c])


def test_the_last_of_a_key_counts_and_every_phases_steps_do():
    inner = "model.recommended.textual_inversion.max_steps"
    jobs = [["max_steps=1", "max_steps=3"], ["max_steps=2"], [f"{inner}=9"], [f"{inner}=8"]]
    assert ordered(jobs[:2]) == [jobs[1], jobs[0]]
    assert ordered(jobs[2:]) == [jobs[3], jobs[2]]
    assert ordered([["max_steps=${batch_size}"], [], ["max_steps=7"]])[0] == ["max_steps=7"]


def test_ordering_needs_no_torch():
    code = "import sys; import dreambooth.cli.sweeps.ordering; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
