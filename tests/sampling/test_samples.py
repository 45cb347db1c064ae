"""Sample images: which ones, and how they are kept."""

from __future__ import annotations

import csv
import json

import numpy as np
from PIL import Image

from dreambooth.data.prompts import SubjectWords
from dreambooth.files import cache_key
from dreambooth.model.stable_diffusion import StableDiffusion
from dreambooth.png_text import read_text
from dreambooth.sampling.draw import draw
from dreambooth.sampling.grid import before_and_after, grid
from dreambooth.sampling.provenance import Weights
from dreambooth.sampling.samples import SampleSet
from dreambooth.sampling.spec import Sampling

SAMPLING = Sampling("DDIMScheduler", 2, 4.0, 16, 3)
WORDS = SubjectWords("sks dog", "dog", "a dog", live=True)


def test_samples_are_every_prompt_with_every_seed(tiny_model_dir, tmp_path):
    model = StableDiffusion.from_pretrained(str(tiny_model_dir))
    samples = SampleSet.of_templates(["a red {subject}", "a dog"], WORDS, [0, 7], SAMPLING)
    assert samples.prompts == ("a red sks dog", "a dog")
    assert samples.class_only == ("a red dog", "a dog")
    prompts = [item.prompt for item in samples.items]
    assert prompts == ["a red sks dog", "a red sks dog", "a dog", "a dog"]
    weights = Weights("tiny", "base", "", {"base": model.weights_hash()})
    images = samples.draw(model, weights, tmp_path, "final")
    expected = draw(model, prompts, [0, 7, 0, 7], SAMPLING)
    with open(tmp_path / "final" / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prompt"] for row in rows] == prompts
    assert [row["seed"] for row in rows] == ["0", "7", "0", "7"]
    assert [row["class_only"] for row in rows] == ["a red dog", "a red dog", "a dog", "a dog"]
    assert {row["provenance"] for row in rows} == {cache_key(**SAMPLING.facts)}
    for row, image, other in zip(rows, images, expected, strict=True):
        kept = np.asarray(Image.open(tmp_path / "final" / row["file"]))
        assert (kept == np.asarray(image)).all() and (kept == np.asarray(other)).all()
        text = read_text(tmp_path / "final" / row["file"])
        assert text["parameters"].startswith(f"{row['prompt']}\nSteps: 2, Sampler: DDIM, ")
        assert json.loads(text["dreambooth"])["seed"] == int(row["seed"])
    sheet = np.asarray(grid(images, 2, samples.prompts))
    assert (np.asarray(Image.open(tmp_path / "final.png")) == sheet).all()
    photo = Image.new("RGB", (40, 20), "green")
    photo.save(tmp_path / "photo.png")
    for before in ([], images):
        if before:
            samples.draw(model, weights, tmp_path, "step-000000")
        samples.draw(model, weights, tmp_path, "final", [tmp_path / "photo.png"])
        expected = before_and_after([photo], samples.prompts, before, images)
        with Image.open(tmp_path / "final.png") as sheet:
            assert sheet.size == expected.size and sheet.tobytes() == expected.tobytes()
