"""Benchmarks of anyone's images: read, scored like the same images alone, resumed, tabulated."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth.data.prompts import SubjectWords, fill, prompts
from dreambooth.errors import UserError
from dreambooth.evaluation.benchmark import Benchmark, BenchmarkSpec
from dreambooth.evaluation.benchmark_reader import BenchmarkReader
from dreambooth.evaluation.benchmark_scores import BenchmarkScoring, alike
from dreambooth.evaluation.record import Scores
from dreambooth.metrics.aggregate import bootstrap_interval

SUBJECTS = {"dog": ("dog", True), "dog2": ("dog", True), "vase": ("vase", False)}
WORDS = {
    name: SubjectWords(noun, noun, f"a {noun}", live) for name, (noun, live) in SUBJECTS.items()
}
QUICK = prompts("quick", live=True)


def noise(path: Path, *key: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(key).integers(0, 256, (20, 18, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(SUBJECTS):
        for i in range(2):
            noise(root / name / f"{i}.png", 1, number, i)
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Three subjects, four prompts x 2 by their slugs, and two images of the class."""
    root = tmp_path_factory.mktemp("tree") / "method"
    for number, (name, (noun, _)) in enumerate(SUBJECTS.items()):
        for k, template in enumerate(QUICK):
            folder = root / name / fill(template, None, f"sks {noun}").replace(" ", "-")
            for i in range(2):
                noise(folder / f"{i}.png", 2, number, k, i)
        for i in range(2):
            noise(root / name / f"a-{noun}" / f"{i}.png", 3, number, i)
    return root


@pytest.fixture
def copied(tree, tmp_path) -> Path:
    return Path(shutil.copytree(tree, tmp_path / "method"))


def read(folder: Path, **other) -> Benchmark:
    own = {"layout": "{subject}/{prompt}/{seed}.png", "manifest": None, "prompts": "quick"}
    own |= {"images_per_prompt": 2, "identifier": None, "first_index": None}
    return BenchmarkReader(BenchmarkSpec(folder=folder, **{**own, **other}), WORDS).read()


def refusal(folder: Path, **other) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, **other)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_benchmark_scores_as_its_images_do_alone(tree, photos, evaluate, tmp_path, capsys):
    out = tmp_path / "scores"
    shared = ("evaluation.encoders=pocket", f"cache_dir='{tmp_path / 'cache'}'")
    command = (f"tree='{tree}'", f"photos.root='{photos}'", f"output_dir='{out}'", *shared)
    command += ("prompts=quick", "images_per_prompt=2")
    evaluate(*command)
    printed = capsys.readouterr().out
    record = json.loads((out / "metrics.json").read_text())
    assert record["images"] == 3 * (4 * 2 + 2) and not table(out / "missing.csv")
    means: dict[str, dict[str, float]] = {}
    for name, (noun, _) in SUBJECTS.items():
        folder = Path(shutil.copytree(tree / name, tmp_path / name))
        with open(folder / "manifest.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "prompt", "class_only", "set"])
            for path in sorted(folder.rglob("*.png")):
                text = path.parent.name.replace("-", " ")
                kind = "subject" if "sks" in text else "class"
                file_name = path.relative_to(folder).as_posix()
                writer.writerow([file_name, text, text.replace("sks ", ""), kind])
        alone = tmp_path / "alone" / name
        other_cache = f"cache_dir='{tmp_path / 'other'}'"
        arguments = (f"images='{folder}'", f"photos='{photos / name}'", f"output_dir='{alone}'")
        evaluate(*arguments, shared[0], other_cache)
        own = json.loads((out / "subjects" / name / "metrics.json").read_text())["scores"]
        expected = json.loads((alone / "metrics.json").read_text())["scores"]
        gallery = [variant for variant in own if variant.startswith("gallery.")]
        assert own == expected and len(gallery) == (2 if noun == "dog" else 0)
        for variant, entry in own.items():
            means.setdefault(variant, {})[name] = entry["mean"]
    assert record["scores"].keys() == {v for v in means if not v.startswith("real_ref.")}
    for variant, entry in record["scores"].items():
        values = means[variant]
        assert entry["mean"] == pytest.approx(sum(values.values()) / len(values), abs=1e-12)
        interval = bootstrap_interval(list(values.values()), list(values), seed=0)
        assert tuple(entry["interval_95"]) == interval and entry["subjects"] == len(values)
    _check_tables(out, record, printed)
    _check_resuming(out, evaluate, command, capsys)


def _check_tables(out: Path, record: dict, printed: str) -> None:
    dino = next(v for v in record["scores"] if v.startswith("dino."))
    subjects, of_prompts = table(out / "subjects.csv"), table(out / "prompts.csv")
    assert [row["subject"] for row in subjects] == list(SUBJECTS)
    assert [row["prompt"] for row in of_prompts] == [fill(t, None, "[class]") for t in QUICK]
    images = table(out / "images.csv")
    snow = [row for row in images if row["class_only"].endswith("in the snow")]
    each = [float(row[dino]) for row in snow]
    (row,) = (row for row in of_prompts if row["prompt"] == "a [class] in the snow")
    assert len(each) == 6 and row["subjects"] == "3"
    assert float(row[dino]) == pytest.approx(sum(each) / 6) and row[f"{dino}.low_95"]
    answer = table(out / "answer.csv")
    kinds = [(row["row"], row["kind"]) for row in answer]
    assert kinds == [
        ("method", "scores"),
        ("DreamBooth (published)", "published"),
        ("textual inversion (published)", "published"),
        ("real photos", "real images"),
    ]
    assert answer[1]["published.DINO"] == "0.668" and answer[3]["published.DINO"] == "0.774"
    for text in ((out / "answer.md").read_text(), (out / "answer.tex").read_text(), printed):
        assert "0.668" in text and "not run" not in text and "recall@1" in text
        assert f"{record['scores'][dino]['mean']:.3f}" in text
        assert "1 of 3 subjects" in text  # the vase has no other subject of its class


def _check_resuming(out: Path, evaluate, command: tuple[str, ...], capsys) -> None:
    """What is done is kept; what is damaged or of something else is made again."""
    before = {path: path.read_bytes() for path in out.rglob("*.csv")}
    kept = {name: out / "subjects" / name / "metrics.json" for name in SUBJECTS}
    kept["dog2"].write_text("damaged")
    times = {name: path.stat().st_mtime_ns for name, path in kept.items()}
    evaluate(*command)
    assert {path: path.read_bytes() for path in out.rglob("*.csv")} == before
    changed = {name for name, path in kept.items() if path.stat().st_mtime_ns != times[name]}
    assert changed == {"dog2"}


def test_what_is_missing_is_said(copied, photos, tmp_path):
    shutil.rmtree(copied / "vase")
    snow = copied / "dog" / "a-sks-dog-in-the-snow"
    (snow / "0.png").unlink()
    (snow / "1.png").write_bytes(b"no picture")
    noise(copied / "grid.png", 9)
    Image.new("RGB", (20, 20)).save(copied / "dog" / "a-red-sks-dog" / "0.png")
    found = read(copied)
    assert found.count == 19 and found.strangers == ["grid.png"] and found.absent == ["vase"]
    left = found.readable()
    assert left.count == 18
    gaps = [(gap.subject, gap.prompt, gap.found, gap.expected) for gap in left.gaps]
    assert gaps == [
        ("vase", "", 0, 8),
        ("dog", "a dog in the snow", 0, 2),
        ("", "dog/a-sks-dog-in-the-snow/1.png", 0, 1),
    ]
    notes = " ".join(left.notes)
    for words in (
        "3 subjects are known, 1 without images: vase.",
        'Missing images: 2, in 1 prompts (dog); first dog, "a dog in the snow": 0 of 2.',
        "cannot be read and are not scored: 1; first ",
        "1.png is not an image",
        "layout={subject}/{prompt}/{seed}.png and are not scored: 1; first grid.png",
        "Black images, which are scored as they are: 1; first dog/a-red-sks-dog/0.png.",
    ):
        assert words in notes, notes
    assert left.gaps[-1].reason and not read(copied, images_per_prompt=1).gaps[1:]


def test_prompts_by_number_and_whether_the_first_is_0_or_1(tmp_path):
    for start, other in ((0, {}), (1, {}), (1, {"first_index": 1})):
        root = tmp_path / f"{start}{len(other)}"
        for k in range(4 - len(other)):
            noise(root / "dog" / f"{k + start}_0.png", k)
        layout = "{subject}/{prompt_index}_{seed}.png"
        (dog,) = read(root, layout=layout, **other).subjects
        assert dog.templates == list(QUICK[: 4 - len(other)])
        assert dog.items[0].prompt == dog.items[0].class_only == "a dog in the jungle"
    (dog,) = read(root, layout=layout, first_index=1, identifier="sks").subjects
    assert dog.items[0].prompt == "a sks dog in the jungle"
    assert "from 1 to 3, of 4 prompts: pass first_index=0 or" in refusal(root, layout=layout)
    noise(root / "dog" / "7_0.png", 7)
    assert "no prompt 7, for the 4 of prompts=quick" in refusal(root, layout=layout, first_index=0)


def test_a_manifest_states_prompts_of_any_kind(tmp_path):
    for i in range(3):
        noise(tmp_path / f"{i}.png", i)
    rows = [
        "0.png,dog,a <s1> by the sea,a dog by the sea,subject",
        "1.png,dog,a dog,a dog,",
        "2.png,vase,2,,",
    ]
    manifest = tmp_path / "m.csv"
    manifest.write_text("\n".join(["file,subject,prompt,class_only,set", *rows]))
    dog, vase = read(tmp_path, manifest=manifest, first_index=0).subjects
    assert [(item.set, item.prompt, item.class_only) for item in dog.items] == [
        ("subject", "a <s1> by the sea", "a dog by the sea"),
        ("class", "a dog", "a dog"),
    ]
    assert vase.items[0].class_only == "a vase in the snow"
    assert [gap.prompt for gap in dog.gaps("quick", 2)] == ["a dog by the sea"]
    for text, words in (
        ("file,subject\n0.png,dog", "lacks prompt in some row"),
        ("file,subject,prompt\n0.png,dog,0\n0.png,dog,0", "names 0.png twice"),
        ("file,subject,prompt,set\n0.png,dog,0,own", "set=own is not one of subject, class"),
        ("file,subject,prompt\n", "names no images"),
    ):
        manifest.write_text(text)
        assert words in refusal(tmp_path, manifest=manifest)


def test_what_cannot_be_read_is_one_sentence(copied, tmp_path):
    assert "is not a folder" in refusal(tmp_path / "no")
    assert "none fits layout={subject}_{prompt}" in refusal(copied, layout="{subject}_{prompt}")
    noise(copied / "dog" / "a-green-sks-dog-on-the-beach" / "0.png", 4)
    text = refusal(copied)
    assert 'name it in two ways, "' in text and '"green sks dog"' in text
    shutil.rmtree(copied / "dog" / "a-green-sks-dog-on-the-beach")
    noise(copied / "dog" / "a-sks-dog-on-mars" / "0.png", 4)
    assert '"a-sks-dog-on-mars" is none of the 4 prompts of prompts=quick' in refusal(copied)
    shutil.rmtree(copied / "dog" / "a-sks-dog-on-mars")
    twice = noise(copied / "dog" / "a-red-sks-dog" / "0.jpg", 5)
    assert "0.jpg and dog/a-red-sks-dog/0.png" in refusal(copied)
    twice.unlink()
    (copied / "dog2").rename(copied / "dog9")
    assert "unknown subject 'dog9': did you mean 'dog" in refusal(copied)


def test_photos_and_unknown_presets_are_refused_before_scoring(copied, photos, evaluate):
    command = (f"tree='{copied}'", f"photos.root='{photos}'", "evaluation.encoders=pocket")
    command += ("prompts=quick",)
    with pytest.raises(UserError, match="paper_table9.*paper_table"):
        evaluate(*command, "published=paper_table9")
    shutil.copy(photos / "dog" / "0.png", copied / "dog" / "a-red-sks-dog" / "0.png")
    with pytest.raises(UserError, match="the same file as the photo"):
        evaluate(*command)


def test_subjects_with_other_numbers_of_images_share_one_div():
    ids = ("div.lpips.pocket.v1.32.within_prompt.4", "div.lpips.pocket.v1.32.within_prompt.2to3")
    scores = {
        name: Scores([{"file": "0.png", variant: 0.5}], {variant: {"mean": 0.5}, "dino.x": {}})
        for name, variant in zip(("dog", "cat"), ids, strict=True)
    }
    for each in alike(scores).values():
        assert set(each.summary) == {"div.lpips.pocket.v1.32.within_prompt.2to4", "dino.x"}
        assert set(each.rows[0]) == {"file", "div.lpips.pocket.v1.32.within_prompt.2to4"}


def test_one_image_a_prompt_has_no_div(copied, photos, evaluate, tmp_path):
    for path in copied.rglob("1.png"):
        path.unlink()
    command = (f"tree='{copied}'", f"photos.root='{photos}'", "evaluation.encoders=pocket")
    evaluate(*command, "prompts=quick", "images_per_prompt=1", "published=null")
    record = json.loads((copied / "scores" / "metrics.json").read_text())
    assert any(v.startswith("dino.") for v in record["scores"])
    assert not any(v.startswith("div.") for v in record["scores"])
    assert "No prompt has two images, so DIV is not scored. (3 of 3 subjects)" in record["notes"]


def test_the_gallery_is_the_other_subjects_of_the_class_with_or_without_images(copied, photos):
    shutil.rmtree(copied / "dog2")
    found = {name: sorted((photos / name).iterdir()) for name in SUBJECTS}
    encoders = None  # not asked
    scoring = BenchmarkScoring(read(copied), found, encoders, [], copied)
    assert scoring.gallery("dog") == {"dog2": found["dog2"]} and not scoring.gallery("vase")
