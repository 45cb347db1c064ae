"""What runs ask for before they run: trainings after sharing, optimizer steps, images to draw."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dreambooth.data.prompts import prompts
from dreambooth.training.resuming.fingerprint import (
    CONTENT,
    WEIGHTS,
    counted_prior,
    depends_on_length,
    flat,
    is_under,
)

Plain = Mapping[str, Any]
# parts of CONTENT that name no content, or that a phase says by itself
NAMES = ("model.name", "model.recommended", "model.scale", "model.sampling", "model.encoders")
BY_PHASE = ("method", "max_steps", "lr")
BY_USE = ("ppl", "prior", "class_prompt")  # as `counted_prior` says


@dataclass(frozen=True)
class Training:
    """A phase that one or more runs train.

    Args:
        config: of the run that trains it for the most steps.
        number: of the phase in its method.
        steps: optimizer steps.
    """

    config: Plain
    number: int
    steps: int

    @property
    def images_per_step(self) -> int:
        """Photos and class images of an optimizer step."""
        phase = self.config["method"]["phases"][self.number]
        return rows_of_step(self.config, phase) * self.config["accumulate"]

    @property
    def samples(self) -> int:
        """Sample images that are drawn while it trains."""
        times = _events(self.steps, self.config["samples"]["every_n_steps"])
        return times * final_samples(self.config)

    @property
    def scored(self) -> int:
        """Images that are drawn for the curve while it trains."""
        block = self.config["evaluation"]
        if block["prompts"] is None:
            return 0
        return _events(self.steps, block["every_n_steps"]) * _images(self.config, block["curve"])


@dataclass(frozen=True)
class Work:
    """What is to be done for runs of train.py.

    Args:
        configs: the configuration of each run.
        trainings: phases that train, each once.
        class_images: the configuration and number of class images, each set once.
        base_images: the same of the base model's images that kernel distances need.
    """

    configs: Sequence[Plain]
    trainings: Sequence[Training]
    class_images: Sequence[tuple[Plain, int]]
    base_images: Sequence[tuple[Plain, int]]

    @classmethod
    def of(cls, configs: Sequence[Plain]) -> Work:
        """Plan the runs with these configurations, every reference resolved."""
        trainings: dict[str, Training] = {}
        drawn: dict[str, tuple[Plain, int]] = {}
        base: dict[str, tuple[Plain, int]] = {}
        for number, config in enumerate(configs):
            for key, training in trainings_of(config, number):
                known = trainings.get(key)
                if known is None or known.steps < training.steps:
                    trainings[key] = training
            if _draws_class_images(config):
                key, count = _class_images(config)
                if key not in drawn or drawn[key][1] < count:
                    drawn[key] = config, count
            base |= {key: (config, count) for key, count in _base_images(config)}
        return cls(configs, [*trainings.values()], [*drawn.values()], [*base.values()])

    @property
    def last_phases(self) -> int:
        """The number of models that are trained."""
        return sum(t.number == len(t.config["method"]["phases"]) - 1 for t in self.trainings)

    @property
    def steps_alone(self) -> int:
        """Optimizer steps if no run shared its training."""
        return sum(phase["max_steps"] for c in self.configs for phase in c["method"]["phases"])

    @property
    def steps(self) -> int:
        """Optimizer steps that are trained."""
        return sum(training.steps for training in self.trainings)

    @property
    def samples(self) -> int:
        """Sample images, while training and at the end."""
        return sum(t.samples for t in self.trainings) + sum(final_samples(c) for c in self.configs)

    @property
    def scored(self) -> int:
        """Images that are drawn to be scored, while training and at the end.

        Those of the base model, which kernel distances need, are drawn once for all runs.
        """
        at_the_end = sum(scored_images(config) for config in self.configs)
        base = sum(count for _, count in self.base_images)
        return sum(t.scored for t in self.trainings) + at_the_end + base


def rows_of_step(config: Plain, phase: Plain) -> int:
    """Count the photos and prior images of a micro-batch; where only a token trains, no others."""
    is_token = (phase["unet"], phase["text_encoder"]) == ("frozen", "token")
    prior = config["prior"]["batch_size"] if _uses_prior(config) and not is_token else 0
    return config["batch_size"] + prior


def scored_images(config: Plain) -> int:
    """Count the images of a run's evaluation."""
    block = config["evaluation"]
    if block["prompts"] is None:
        return 0
    return _images(config, block) + len(_other_classes(config)) * block["class_images"]


def final_samples(config: Plain) -> int:
    """Count the sample images of a run's end."""
    return len(config["samples"]["prompts"]) * len(config["samples"]["seeds"])


def trainings_of(config: Plain, run: int) -> Iterator[tuple[str, Training]]:
    """List a run's phases, each under what its weights depend on, as `facts_of_phases` does."""
    sides = (*WEIGHTS, *CONTENT)
    facts = {
        key: value
        for key, value in flat(config).items()
        if is_under(key, sides) and not is_under(key, (*NAMES, *BY_PHASE, *BY_USE))
    }
    facts |= counted_prior(config, _uses_prior(config))
    facts |= {part: config["method"][part] for part in ("adapter", "token")}
    is_shared = config.get("reuse", {"enabled": True})["enabled"] and config["resume"] == "auto"
    facts |= {} if is_shared else {"run": run}
    for number, phase in enumerate(config["method"]["phases"]):
        own = {key: value for key, value in phase.items() if key != "max_steps"}
        length = {"max_steps": phase["max_steps"]} if depends_on_length(config) else {}
        key = json.dumps({**facts, **own, **length}, sort_keys=True)
        yield key, Training(config, number, phase["max_steps"])
        facts[f"phase_{number}"] = dict(phase)


def _class_images(config: Plain) -> tuple[str, int]:
    """Return what a run's class images depend on, and how many they are."""
    prior = config["prior"]
    names = ("seed", "sampler", "num_inference_steps", "guidance_scale")
    facts = {key: prior[key] for key in names}
    facts |= {key: config[key] for key in ("class_prompt", "resolution")}
    return json.dumps([facts, *_model(config)], sort_keys=True), prior["num_class_images"]


def _model(config: Plain) -> list[Any]:
    """List what the frozen model is, and how it computes."""
    keys = ("path", "revision", "variant", "max_sequence_length")
    model = {key: config["model"].get(key) for key in keys}
    return [model, (config["sampling"]["dtype"], config["trainer"]["precision"])]


def _base_images(config: Plain) -> list[tuple[str, int]]:
    """List the sets of base images of a run: what each depends on, and how many images it has."""
    block = config["evaluation"]
    if block["prompts"] is None or "kernel" not in block["metrics"]:
        return []
    drawn = [*_model(config), config["sampling"], config["scheduler"], config["resolution"]]
    drawn.append(block["class_seed"])
    nouns = [config["class_prompt"], *(f"a {noun}" for noun in _other_classes(config))]
    return [(json.dumps([*drawn, noun], sort_keys=True), block["class_images"]) for noun in nouns]


def draws_base_model(config: Plain) -> bool:
    """Tell whether a run draws with the base model before it trains, unless the cache has it."""
    return _draws_class_images(config) or bool(_base_images(config))


def _other_classes(config: Plain) -> list[str]:
    block, own = config["evaluation"], config["subject"]["class_noun"]
    asked = block["other_classes"] if "kernel" in block["metrics"] else []
    return [noun for noun in dict.fromkeys(asked) if noun != own]


def _draws_class_images(config: Plain) -> bool:
    prior = config["prior"]
    is_drawn = prior.get("kind", "images") == "images" and prior["images_dir"] is None
    return _uses_prior(config) and is_drawn


def _uses_prior(config: Plain) -> bool:
    return config["ppl"] and config["method"]["uses_prior"]


def _events(steps: int, every: int) -> int:
    """Count how often something happens every n steps, from step 0, before the last step."""
    return len(range(0, steps, every)) if every else 0


def _images(config: Plain, block: Plain) -> int:
    templates = prompts(block["prompts"], config["subject"]["live"])
    return len(templates) * block["images_per_prompt"] + block["class_images"]
