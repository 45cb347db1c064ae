"""Batches are a function of the step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dreambooth.data.batches import DreamBoothData, KeyedBatches
from dreambooth.data.latents import Examples
from dreambooth.diffusion.process import UniformTimesteps


def examples(kind: str, count: int) -> Examples:
    """Latents that say which example they are."""
    offset = 100 if kind == "prior" else 0
    mean = torch.stack([torch.full((4, 2, 2), float(offset + i)) for i in range(count)])
    names = tuple(f"{kind}{i}" for i in range(count))
    sizes = torch.arange(count)[:, None].expand(-1, 6) + int(offset)
    return Examples(mean, mean - 1000, tuple(f"prompt of {name}" for name in names), names, sizes)


def batches(instance: int = 3, prior: int | None = 7, size: int = 2, **changed) -> KeyedBatches:
    class_examples = None if prior is None else examples("prior", prior)
    base = KeyedBatches(
        examples("instance", instance), class_examples, size, size, UniformTimesteps(1000), seed=0
    )
    return replace(base, **changed)


def same(a: dict, b: dict) -> bool:
    assert a.keys() == b.keys()
    return all(
        torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
    )


def test_a_batch_depends_on_seed_step_and_slot_alone():
    data = batches()
    later = [data.batch(i) for i in range(6)]
    assert all(same(later[i], batches().batch(i)) for i in reversed(range(6)))
    torch.manual_seed(123)
    assert same(batches().batch(4), later[4])
    iterator = iter(replace(data, start=4))
    assert same(next(iterator), later[4]) and same(next(iterator), later[5])
    for key in ("noise", "posterior_noise", "timesteps"):
        assert not torch.equal(later[0][key], later[1][key])
        assert not torch.equal(later[0][key], batches(seed=1).batch(0)[key])
    assert later[0]["key"] != later[1]["key"] != batches(seed=1).batch(1)["key"]


def test_instance_rows_draw_a_variant_of_their_prompt_and_keep_their_noise():
    words = {f"prompt of {kind}0": ("x", "y", "z") for kind in ("instance", "prior")}
    plain, varied = batches(size=3), batches(size=3, variants=words)
    assert varied.prompts == sorted({*plain.prompts, "x", "y", "z"} - {"prompt of instance0"})
    drawn = []
    for step in range(8):
        a, b = plain.batch(step), varied.batch(step)
        assert same(b, varied.batch(step))
        for name, before, now in zip(a["names"], a["prompts"], b.pop("prompts"), strict=True):
            assert now == before or name == "instance0"
            drawn += [now] if name == "instance0" else []
        a.pop("prompts")
        assert same(a, b)
    assert set(drawn) == {"x", "y", "z"}
    other = [batches(size=3, variants=words, seed=1).batch(s)["prompts"] for s in range(8)]
    assert other != [varied.batch(s)["prompts"] for s in range(8)]


def test_every_row_has_its_own_noise_and_its_own_examples_facts():
    batch = batches(size=3).batch(0)
    assert batch["noise"].shape == batch["mean"].shape == (6, 4, 2, 2)
    draws = [*batch["noise"], *batch["posterior_noise"]]
    for i, a in enumerate(draws):
        assert not any(torch.equal(a, b) for b in draws[:i])
    for row, (name, prompt) in enumerate(zip(batch["names"], batch["prompts"], strict=True)):
        number = float(name.removeprefix("instance").removeprefix("prior"))
        number += 100 * name.startswith("prior")
        assert (batch["mean"][row] == number).all()
        assert (batch["logvar"][row] == number - 1000).all()
        assert prompt == f"prompt of {name}"
    assert batch["timesteps"].dtype == torch.int64


def test_instance_rows_come_before_prior_rows():
    batch = replace(batches(size=2), prior_batch_size=3).batch(0)
    assert batch["is_prior"].tolist() == [False, False, True, True, True]
    assert [n.startswith("prior") for n in batch["names"]] == batch["is_prior"].tolist()
    alone = batches(prior=None).batch(0)
    assert not alone["is_prior"].any() and len(alone["names"]) == 2
    assert torch.equal(alone["noise"], batches().batch(0)["noise"][:2])  # PPL changes no draw


def test_every_epoch_shows_every_example_once_in_another_order():
    data = batches(instance=5, prior=7, size=3)
    shown = [data.batch(i) for i in range(35)]  # 105 of each kind: 21 epochs of 5, 15 of 7
    for kind, count in (("instance", 5), ("prior", 7)):
        names = [n for b in shown for n in b["names"] if n.startswith(kind)]
        epochs = [tuple(names[i : i + count]) for i in range(0, len(names), count)]
        assert all(sorted(e) == [f"{kind}{i}" for i in range(count)] for e in epochs)
        assert len(set(epochs)) > 5


def test_independent_pairing_shows_all_pairs_and_diffusers_pairing_only_its_own():
    fixed = {(f"instance{j % 3}", f"prior{j % 7}") for j in range(7)}
    for pairing, pairs in (("diffusers", fixed), ("independent", None)):
        data = batches(size=1, pairing=pairing)
        seen = [tuple(data.batch(i)["names"]) for i in range(700)]
        if pairs is None:
            assert len(set(seen)) == 21
        else:
            assert set(seen) == pairs
            # an epoch is max(3, 7) positions, each once
            epochs = [seen[i : i + 7] for i in range(0, 700, 7)]
            assert all(set(epoch) == pairs for epoch in epochs)
            assert len({tuple(epoch) for epoch in epochs}) > 50


def test_timesteps_cover_the_schedule_evenly():
    times = torch.cat([batches(size=8).batch(i)["timesteps"] for i in range(250)])
    assert times.min() >= 0 and times.max() == 999
    counts = torch.histc(times.float(), bins=10, min=0, max=1000)
    assert (counts - 400).abs().max() < 100  # five standard deviations


def test_noise_offset_adds_one_constant_a_channel():
    plain, offset = (batches(noise_offset=x).batch(0)["noise"] for x in (0.0, 0.5))
    added = (offset - plain)[..., 0, 0]
    torch.testing.assert_close(offset - plain, added[..., None, None].expand_as(plain))
    assert 0.05 < added.std() < 2 and len(added.unique()) == added.numel()


@pytest.mark.parametrize("pairing", ["independent", "diffusers"])
def test_two_ranks_draw_together_the_joint_batch(pairing):
    for step in range(5):
        joint = batches(size=4, pairing=pairing).batch(step)
        ranks = [batches(size=2, pairing=pairing, rank=r, world_size=2).batch(step) for r in (0, 1)]
        assert ranks[0]["key"] != ranks[1]["key"]
        for key in joint.keys() - {"key"}:
            parts = [r[key][:2] for r in ranks] + [r[key][2:] for r in ranks]
            if isinstance(joint[key], torch.Tensor):
                assert torch.equal(torch.cat(parts), joint[key]), key
            else:
                assert sum(parts, []) == joint[key], key


def test_the_loader_starts_at_the_trainers_micro_step():
    class Trainer:
        global_rank, world_size, global_step, accumulate_grad_batches = 1, 2, 3, 4

    data = DreamBoothData(batches())
    data.trainer = Trainer()
    assert same(next(iter(data.train_dataloader())), batches(rank=1, world_size=2).batch(12))
