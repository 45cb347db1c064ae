"""Plans of sweeps, compared with counts by hand."""

from __future__ import annotations

from composed_configs import composed
from dreambooth.study.costs.plan import Work


def work(*runs: tuple[str, ...]) -> Work:
    return Work.of([composed(*run) for run in runs])


def trained(plan: Work) -> tuple[int, int, int]:
    return plan.last_phases, plan.steps, plan.steps_alone


def test_what_changes_no_weight_trains_once_and_more_steps_continue():
    runs = [
        ("scheduler=ddim", "max_steps=100"),
        ("scheduler=pndm", "max_steps=100"),
        ("scheduler=pndm", "max_steps=250"),
        ("scheduler=pndm", "max_steps=250", "lr=1e-5"),
    ]
    configs = [composed(*run) for run in runs]
    assert trained(Work.of(configs)) == (2, 500, 700)
    alone = [{**config, "lr_schedule": "cosine"} for config in configs]  # its length is a part
    assert trained(Work.of(alone)) == (3, 600, 700)
    anew = [{**config, "resume": None} for config in configs]
    assert trained(Work.of(anew)) == (4, 700, 700)


def test_without_a_prior_its_settings_make_no_other_training():
    configs = [composed("max_steps=9", f"prior.num_inference_steps={n}") for n in (10, 20)]
    assert trained(Work.of(configs)) == (2, 18, 18)
    assert trained(Work.of([{**config, "ppl": False} for config in configs])) == (1, 9, 18)


def test_a_first_phase_is_shared_by_different_second_ones():
    first = "model.recommended.textual_inversion.max_steps=30"
    runs = [
        ("method=ti_then_full", first, f"max_steps={n}", lr)
        for n, lr in ((10, "lr=1"), (20, "lr=2"))
    ]
    assert trained(work(*runs)) == (2, 30 + 10 + 20, 30 + 10 + 30 + 20)


def test_images_are_counted_by_hand():
    """5 prompts x 2 seeds; 4 prompts of `quick` x 2 seeds and 8 of the class."""
    prompts = "samples.prompts=[a,b,c,d,e]"
    both = work((prompts, "subject=dog"), (prompts, "subject=dog8", "prior.num_class_images=99"))
    assert [count for _, count in both.class_images] == [99]  # both are of `a dog`
    assert both.samples == 2 * 10 and both.scored == 2 * (4 * 2 + 8)
    curve = ("max_steps=25", "evaluation.every_n_steps=10", "samples.every_n_steps=20")
    seen = work((prompts, *curve, "ppl=false"), (prompts, *curve, "ppl=false", "scheduler=lms"))
    assert seen.class_images == work((prompts, "prior.kind=prediction")).class_images == []
    assert seen.samples == 2 * 10 + 2 * 10  # at steps 0 and 20 of one training, and two ends
    assert seen.scored == 3 * (4 * 1 + 4) + 2 * 16  # the curve at 0, 10, 20
