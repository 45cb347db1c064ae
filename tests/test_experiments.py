"""Every preset of a published study: its runs, its settings, and a step of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from dreambooth.cli.configuration.configs import CONF
from dreambooth.cli.configuration.factories import optimizer_factory
from dreambooth.cli.refusals import checks
from dreambooth.data.templates import templates
from dreambooth.errors import UserError
from dreambooth.training.resuming.fingerprint import flat

THIRTY = 30
# preset => number of runs, and settings on Stable Diffusion by the sources that
# conf/experiment/*.yaml name: key => every value
PAPER = {"evaluation.prompts": {"paper"}, "evaluation.images_per_prompt": {4}}
HF = {"prior.weight": {1.0}, "evaluation.prompts": {"cornell"}}
STUDIES: dict[str, tuple[int, dict[str, set]]] = {
    "paper_table1": (
        2 * THIRTY,
        PAPER
        | {
            "method.name": {"full", "textual_inversion"},
            "lr": {5e-6, 5e-4},
            "max_steps": {1000, 3000},
            "prior.num_class_images": {1000},
            "prior.weight": {1.0},
            "train_text_encoder": {False},
        },
    ),
    "paper_table3": (
        2 * THIRTY,
        PAPER
        | {
            "ppl": {False, True},
            "lr": {5e-6},
            "max_steps": {1000},
            "prior.num_class_images": {1000},
            "prior.weight": {1.0},
        },
    ),
    "paper_table4": (
        3 * 5,
        PAPER
        | {
            "class_noun": {"right", "none", "wrong"},
            "lr": {5e-6},
            "max_steps": {1000},
        },
    ),
    "paper_table5": (
        2 * 5,
        {
            "photos.use": {1, 2, 3, 4, 5},
            "lr": {5e-6},
            "max_steps": {1000},
            "evaluation.prompts": {"recontext"},
            "evaluation.images_per_prompt": {4},
        },
    ),
    "cornell": (
        2 * THIRTY,
        {
            "ppl": {False, True},
            "lr": {5e-6},
            "max_steps": {400},
            "batch_size": {1},
            "prior.num_class_images": {100},
            "prior.weight": {1.0},
            "train_text_encoder": {False},
            "augment.random_crop": {True},
            "trainer.precision": {"16-mixed"},
            "optimizer._target_": {"bitsandbytes.optim.AdamW8bit"},
            "gradient_checkpointing": {True},
            "evaluation.prompts": {"cornell"},
            "evaluation.images_per_prompt": {2},
            "sampling.num_inference_steps": {30},
            "sampling.guidance_scale": {7.5},
        },
    ),
    "hf_objects": (
        2 * 5,
        HF | {"ppl": {False}, "lr": {5e-6, 2e-6}, "max_steps": {400}, "batch_size": {4}},
    ),
    "hf_faces": (
        2 * 6,
        HF | {"ppl": {True}, "lr": {5e-6, 2e-6, 1e-6}, "max_steps": {800, 1200}, "batch_size": {2}},
    ),
    "hf_ppl": (
        2 * 4,
        HF | {"ppl": {False, True}, "lr": {2e-6}, "max_steps": {1200}, "batch_size": {2}},
    ),
    "hf_schedulers": (
        2 * 6,
        HF
        | {
            "scheduler.name": {"PNDMScheduler", "LMSDiscreteScheduler", "DDIMScheduler"},
            "sampling.num_inference_steps": {50, 100},
            "ppl": {False},
            "batch_size": {2},
            "lr": {5e-6},  # the high rate, whose model is overfit
            "max_steps": {1200},
        },
    ),
    "hf_text_encoder": (
        2 * 4,
        HF
        | {
            "train_text_encoder": {False, True},
            "lr": {2e-6},
            "max_steps": {800},
            "batch_size": {2},
        },
    ),
    "hf_ti_then_dreambooth": (
        3 * 4,
        HF
        | {
            "method.name": {"full", "ti_then_full"},
            "method.token_max_steps": {None, 2000},
            "lr": {2e-6, 1e-6},
            "max_steps": {800, 500},
            "batch_size": {2},
        },
    ),
    "fabric_lora": (
        1,
        {
            "lr": {1e-4},
            "max_steps": {800},
            "batch_size": {1},
            "accumulate": {4},
            "method.adapter.r": {4},
            "method.adapter.lora_alpha": {32},
            "prior.num_class_images": {100},
            "prior.num_inference_steps": {30},
            "prior.guidance_scale": {7.5},
            "prior.weight": {1.0},
            "instance_prompt": {"a sks african fabric pattern"},
            "class_prompt": {"a fabric pattern"},
            "samples.every_n_steps": {100},
            "checkpoint.every_n_steps": {200},
            "checkpoint.keep": {4},
            "optimizer.weight_decay": {1e-2},
            "augment.interpolation": {"lanczos"},
            "scheduler.name": {"PNDMScheduler"},
            "sampling.num_inference_steps": {30},
            "trainer.log_every_n_steps": {1},
        },
    ),
    "fabric_ti": (
        1,
        {
            "lr": {5e-4},
            "max_steps": {3000},
            "accumulate": {4},
            "method.token.token": {"<african-fabric>"},
            "method.token.initializer": {"pattern"},
            "augment.flip": {True},
            "augment.interpolation": {"lanczos"},
            "method.token.num_vectors": {1},
            "samples.every_n_steps": {500},
            "checkpoint.every_n_steps": {1000},
        },
    ),
    "fabric_lora_vs_ti": (
        2,
        {
            "method.name": {"lora", "textual_inversion"},
            "lr": {1e-4, 5e-4},
            "max_steps": {800, 3000},
            "instance_prompt": {"a sks african fabric pattern", "a <african-fabric>"},
            "samples.every_n_steps": {100, 500},
            "checkpoint.every_n_steps": {200, 1000},
            "augment.flip": {False, True},
        },
    ),
    "learning_rate_grid": (
        72,
        {
            "lr": {5e-6, 2e-6},
            "max_steps": {400, 800, 1200},
            "ppl": {False, True},
            "train_text_encoder": {False, True},
            "scheduler.name": {"PNDMScheduler", "LMSDiscreteScheduler", "DDIMScheduler"},
        },
    ),
}


@contextmanager
def sweep(*arguments: str) -> Iterator[list[list[str]]]:
    """Give the overrides of every job of a command."""
    Plugins.instance()  # it imports the sweeper's base class anew
    from hydra_plugins.dreambooth_sweeper import EveryRun

    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        cfg = loader.load_configuration("train", list(arguments), RunMode.MULTIRUN)
        options: Any = OmegaConf.to_container(cfg.hydra.sweeper, resolve=True)
        assert options.pop("_target_").endswith(".EveryRun")
        sweeper = EveryRun(**options)
        sweeper.hydra_context = HydraContext(config_loader=loader, callbacks=Callbacks())
        yield sweeper.jobs(list(arguments))


def jobs_of(name: str, model: str) -> list[list[str]]:
    with sweep(f"experiment={name}", f"model={model}") as jobs:
        return jobs


@cache
def composed(name: str, model: str) -> list[DictConfig]:
    """Compose the runs of a preset's first subject; of a large grid, one run for each value.

    On the embedded model, whose settings follow by one rule, the first and the last.
    """
    with sweep(f"experiment={name}", f"model={model}") as jobs:
        first = set(jobs[0])
        subject = {o for o in first if o.startswith("subject=")}
        chosen = [job for job in jobs if subject <= set(job)]
        if len(chosen) > 6:
            chosen = [job for job in chosen if len(first - set(job)) < 2]
        chosen = chosen if model == "sd15" else [chosen[0], chosen[-1]]
        return [compose("train", [*job, "output_dir=out"]) for job in chosen]


def test_every_preset_is_a_study_or_a_single_run():
    presets = {path.stem for path in (CONF / "experiment").glob("*.yaml")}
    parity = {"parity_diffusers", "parity_diffusers_sd3", "parity_diffusers_flux2"}
    assert presets == parity.union(STUDIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_the_settings_are_the_published_ones(name):
    count, published = STUDIES[name]
    runs = [flat(OmegaConf.to_container(cfg, resolve=True)) for cfg in composed(name, "sd15")]
    jobs = jobs_of(name, "sd15")
    assert len(jobs) == count == len({tuple(sorted(job)) for job in jobs})
    for key, values in published.items():
        assert {run.get(key) for run in runs} == values, key


@pytest.mark.slow
def test_lists_are_the_published_ones():
    (lora,), (inversion,) = composed("fabric_lora", "sd15"), composed("fabric_ti", "sd15")
    options = lora.method.adapter
    targets = options.get("target_modules") or lora.model.adapter_targets
    assert {"to_q", "to_k", "to_v", "to_out.0"} <= set(targets) and not options.get("lora_dropout")
    assert inversion.method.token.templates == "course" and len(templates("course")) == 15
    prompts = {cfg.instance_prompt.rsplit(" ", 2)[0] for cfg in composed("cornell", "sd15")}
    assert prompts == {"a photo of a"}


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.thorough
def test_every_run_belongs_to_one_row_of_its_table(name):
    for model in ("pocket", "sd15"):
        for cfg in composed(name, model):
            checks.check(cfg)
            run: Any = flat(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
            study: Any = OmegaConf.to_container(cfg.published, resolve=True)
            assert {"title", "question", "source", "rows"} <= study.keys()
            rows = [row["setting"] for row in study["rows"] if not row.get("real")]
            mine = [row for row in rows if all(run[key] == row[key] for key in row)]
            assert len(mine) == (1 if rows else 0), (name, rows)
    headers = (CONF / "experiment" / f"{name}.yaml").read_text().split("\ndefaults:")[0]
    parts = (
        f"train.py experiment={name}",
        "# Published:",
        "# Cost:",
        "# Deviations:",
        "model=sd15",
    )
    assert all(part in headers for part in parts)


TRAINS = ("method", "train_text_encoder", "ppl", "class_noun")  # of what a case varies


def cases() -> list[tuple[str, tuple[str, ...]]]:
    """List every study with each combination of what trains in its runs."""
    found: dict[tuple[str, tuple[str, ...]], None] = {}
    for name in STUDIES:
        for job in jobs_of(name, "pocket"):
            found[name, tuple(o for o in job if o.split("=")[0].startswith(TRAINS))] = None
    return list(found)


@pytest.mark.slow
@pytest.mark.thorough
def test_every_case_of_every_study_trains_a_step(spine, encoders_dir, tmp_path):
    few = ("max_steps=1", "evaluation.images_per_prompt=1", "evaluation.class_images=0")
    few += ("evaluation.metrics=[dino]", f"evaluation.encoders_dir='{encoders_dir}'")
    few += ("batch_size=1", "accumulate=1", "prior.num_class_images=2")
    for number, (name, case) in enumerate(cases()):
        two_phases = any("ti_then_full" in each for each in case)
        more = ("method.token_max_steps=1",) if two_phases else ()
        out = spine.run(tmp_path / str(number), f"experiment={name}", *case, *few, *more)
        assert (out / "samples/final.png").exists() and any((out / "model").iterdir()), (name, case)


def test_the_pocket_model_scales_what_was_published():
    (cfg, *_) = composed("hf_objects", "pocket")
    assert cfg.lr == pytest.approx(40 * 5e-6) and cfg.max_steps == 400 / 4
    pocket, sd15 = (OmegaConf.load(CONF / f"model/{name}.yaml") for name in ("pocket", "sd14"))
    for method, factor in pocket.scale.items():  # the stated rule
        if method in ("denoising", "class_images"):
            continue
        mine, theirs = pocket.recommended[method], sd15.recommended[method]
        assert mine.lr / theirs.lr == pytest.approx(factor.lr)
        assert mine.max_steps / theirs.max_steps == pytest.approx(factor.steps)
    steps = pocket.sampling.num_inference_steps / sd15.sampling.num_inference_steps
    assert pocket.scale.denoising.steps == steps


def test_the_command_line_narrows_a_study():
    with sweep("experiment=paper_table3", "subject=dog") as jobs:
        runs = [sorted(set(job) - {"experiment=paper_table3"}) for job in jobs]
    assert runs == [["ppl=False", "subject=dog"], ["ppl=True", "subject=dog"]]
    with sweep("experiment=paper_table1", "subject=dog,cat", "method=full") as jobs:
        assert {job[0] for job in jobs} == {"subject=dog", "subject=cat"}
        assert sum("method=full" in job for job in jobs) == 4  # the other case keeps its settings
    with sweep("experiment=paper_table4", "class_noun=none", "subject=dog") as jobs:
        assert len(jobs) == 1


def test_a_studys_subjects_stand_together():
    """An interrupted study has whole subjects, which paired differences need."""
    for name in ("paper_table1", "paper_table3", "hf_ti_then_dreambooth"):
        with sweep(f"experiment={name}") as jobs:
            subjects = [next(o for o in job if o.startswith("subject=")) for job in jobs]
        assert [s for i, s in enumerate(subjects) if i == 0 or s != subjects[i - 1]] == list(
            dict.fromkeys(subjects)
        )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${scaled:full.lr,5.0e-6}", 2e-4),
        ("${scaled:full.steps,1000}", 250),
        ("${scaled:full.steps,1}", 1),
        ("${scaled:full.lr,5.0e-6,2.0e-6}", "0.0002,8e-05"),
        ("${scaled:full.steps,400,800}", "100,200"),
        ("${at_most:64,1000}", 64),
        ("${at_most:null,1000}", 1000),
        ("${choose:a,a,1,b,2}", 1),
        ("${choose:c,a,1,b,2,3}", 3),
        ("${other_noun:dog}", "glasses"),
        ("${other_noun:vase}", "backpack"),
        ("${other_noun:spaceship}", "backpack"),
    ],
)
def test_the_resolvers_of_presets(text, value):
    scale = {"full": {"lr": 40, "steps": 0.25}}
    cfg = OmegaConf.create({"model": {"scale": scale}, "value": text})
    assert cfg.value == value


def test_wrong_choices_in_a_preset_are_one_sentence():
    from dreambooth.cli.configuration.resolvers import choose, scaled

    with pytest.raises(UserError, match="choose right, none"):
        choose("left", "right", 1, "none", 2)
    with pytest.raises(UserError, match="model.scale.full.rate does not exist"):
        scaled("full.rate", 1.0, _root_=OmegaConf.create({"model": {"scale": {}}}))


@pytest.mark.parametrize("model", ["pocket", "sd15"])
def test_the_optimizer_of_the_16_gb_study_can_be_made(model):
    """8-bit AdamW refuses options of AdamW that the default configuration has."""
    cfg = composed("cornell", model)[0]
    block: Any = OmegaConf.to_container(cfg.optimizer, resolve=True)
    optimizer_factory(block, cfg.lr, cfg.trainer.precision)
