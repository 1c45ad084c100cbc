"""The public API: what it holds, what loading it costs, and every name called as the package's README documents it."""

import inspect
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from small_world import small_classifier, write_digits

import dgs_utils as dgs
from dgs_utils.diffusion.latents import Latents

ROOT = Path(__file__).resolve().parents[1]
ROW = re.compile(r"^\| `(\w+)(?:\(([^)]*)\))?` \| .+ \| `([\w.]+)` \|$", re.M)
TABLE = (ROOT / "dgs_utils" / "README.md").read_text().partition("## The public API")[2].partition("\n## ")[0]
DOCUMENTED = {name: (arguments.split(", ") if arguments else [], module)
              for name, arguments, module in ROW.findall(TABLE)}


pytestmark = pytest.mark.filterwarnings("ignore:class:UserWarning")  # small sets have no good thresholds


@pytest.fixture(autouse=True)
def untouched_chance():
    """Hold every test to the promise that global random states stay as they are."""
    def states() -> tuple:
        return torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002

    before = states()
    yield
    assert states() == before


# ---- Names -----------------------------------------------------------------------------------------------------------

def test_the_documented_table_is_all_there_is():
    assert set(dgs.__all__) == DOCUMENTED.keys()
    assert len(ROW.findall(TABLE)) == len(DOCUMENTED) == TABLE.count("\n| `")
    assert set(dgs.__all__) <= set(dir(dgs))


@pytest.mark.parametrize("name", dgs.__all__)
def test_each_name_comes_from_its_module_with_the_documented_arguments(name):
    arguments, module = DOCUMENTED[name]
    found = getattr(dgs, name)
    assert getattr(found, "__module__", f"dgs_utils.{module}") == f"dgs_utils.{module}"
    if callable(found):
        parameters = [parameter for parameter in inspect.signature(found).parameters if parameter != "self"]
        assert arguments == [parameter for parameter in parameters if parameter in arguments]
        assert inspect.getdoc(found)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="scale_count"):
        dgs.scale_count  # noqa: B018


@pytest.mark.parametrize(("code", "spared"), [
    ("import dgs_utils", {"torch", "pandas", "numpy", "sklearn"}),
    ("from dgs_utils.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass", {"torch", "pandas", "numpy"}),
    ("import dgs_utils; dgs_utils.log_transform; dgs_utils.draw; dgs_utils.k_center", {"torch", "pandas"}),
    ("import dgs_utils; dgs_utils.DifficultyGuidedSampler", {"torch"}),
])
def test_names_load_only_what_they_need(code, spared):
    check = f"{code}\nimport sys; sys.exit(bool({spared} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", check], stdout=subprocess.DEVNULL).returncode == 0


# ---- Calls: selection ------------------------------------------------------------------------------------------------

SCORES = np.random.default_rng(0).beta(0.6, 1.5, 80)


def test_scores_transform_and_thresholds():
    logits = np.random.default_rng(1).normal(size=(6, 4))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(dgs.difficulty_scores(logits, [0, 1, 2, 3, 0, 1]), 1 - p[range(6), [0, 1, 2, 3, 0, 1]])
    found = dgs.search_thresholds(SCORES.tolist(), limit=5, weight=0.5, objective="code", bins=10)
    assert found.objective.shape == (5, 5)
    assert found.objective[found.bottom, found.top] == found.objective.min()
    transformed = dgs.log_transform(SCORES.tolist(), bottom=found.bottom, top=found.top)
    lo, hi = np.sort(SCORES)[[found.bottom, -1 - found.top]]
    np.testing.assert_allclose(transformed, np.maximum(np.log(np.clip(SCORES, lo, hi) / lo) / np.log(hi / lo), 1e-4))


def test_targets_and_draw():
    counts = dgs.scale_counts(SCORES, ipc=10, bins=10)
    assert counts.sum() == 10
    assert dgs.predefined_counts("ground", ipc=10).tolist() == [1] * 10
    drawn = dgs.draw(SCORES, counts, rng=0)
    bins = np.minimum((SCORES[drawn.indices] * 10).astype(int), 9)
    np.testing.assert_array_equal(np.bincount(bins, minlength=10), counts)
    assert not drawn.shortage.any()


def test_coresets_take_lists():
    features = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [10.0, 10.0]]
    assert dgs.k_center(features, k=2).tolist() == [1, 3]
    assert dgs.herding(features, k=4).shape == (4,)


def test_sampler():
    labels = ["a", "b"] * 40
    sampler = dgs.DifficultyGuidedSampler(ipc=5, random_state=0).fit(SCORES, labels)
    chosen = sampler.select(SCORES, labels)
    assert [labels[i] for i in chosen] == ["a"] * 5 + ["b"] * 5
    assert sampler.report_["class"].tolist() == ["a", "b"]


# ---- Calls: images and networks --------------------------------------------------------------------------------------

def test_subsets_and_crop():
    assert dgs.SUBSETS["imagenette"][0] == ("n01440764", 0, "tench")
    assert [len(dgs.SUBSETS[name]) for name in ("imagewoof", "imagenette", "imageidc")] == [10] * 3
    image = Image.fromarray(np.arange(40 * 60, dtype=np.uint32).reshape(40, 60).astype(np.uint8))
    assert dgs.center_crop(image, size=16).size == (16, 16)


@pytest.fixture(scope="module")
def scorer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scorer") / "classifier"
    small_classifier().save(folder)
    return folder


def test_scorer_is_opened_scores_and_teaches(scorer_folder, tmp_path):
    scorer, images = dgs.open_scorer(str(scorer_folder), size=8), dgs.ImageSet.read(write_digits(tmp_path / "a", 0, 9))
    scores = dgs.score_images(images, scorer, index=[0, 1, 2], measure="difficulty")
    with torch.inference_mode():
        pixels = torch.stack([scorer.read(path) for path in images.paths])
        expected = dgs.difficulty_scores(scorer(pixels), images.labels)
    np.testing.assert_allclose(scores["score"], expected, atol=1e-5)
    turned = dgs.score_images(images, [scorer], index=[1, 2, 0])["score"]
    np.testing.assert_allclose(turned, dgs.difficulty_scores(scorer(pixels), (images.labels + 1) % 3), atol=1e-5)
    teach = dgs.teacher_of(scorer, index=[2, 0, 1])
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    np.testing.assert_allclose(teach((pixels / 255 - mean) / std), scorer(pixels)[:, [2, 0, 1]], rtol=1e-3, atol=1e-3)
    chosen = dgs.DifficultyGuidedSampler(2, random_state=0).fit(scores["score"], scores["class"])
    assert len(chosen.select(scores["score"], scores["class"])) == 6
    for arguments, message in (({"measure": "dificulty"}, "measure is 'dificulty'; did you mean 'difficulty'"),
                               ({"index": [0, 1, 3]}, "class 2 has index 3, and classifier dgs:convnet3 has 3")):
        with pytest.raises(ValueError, match=message):
            dgs.score_images(images, scorer, **arguments)


def test_evaluation_repeats_itself_and_tells_its_seeds():
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat(10)
    pixels = torch.randint(0, 128, (20, 3, 8, 8), dtype=torch.uint8, generator=rng) + 127 * labels[:, None, None, None]
    images = dgs.ImageTensors(pixels.to(torch.uint8), labels)
    rows = [dgs.evaluate_set(images, images, network="convnet3", protocol="idc", seeds=(3, 5), epochs=2, evaluations=1,
                             method="mine", allow_test_images=True) for _ in range(2)]
    pd.testing.assert_frame_equal(*rows)
    assert rows[0]["training_seed"].tolist() == [3, 5]
    assert rows[0].loc[0, ["method", "ipc", "epochs", "n_test", "image_size"]].tolist() == ["mine", 10, 2, 20, 8]


def test_arrays_become_images():
    grey = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    found = dgs.ImageTensors.from_arrays(grey, [1, 0])
    assert found.labels.tolist() == [1, 0]
    assert all((found.images[:, channel].numpy() == grey).all() for channel in range(3))
    coloured = np.stack([grey, grey + 1, grey + 2], axis=-1)
    np.testing.assert_array_equal(dgs.ImageTensors.from_arrays(coloured, [0, 1]).images[:, 2], grey + 2)


@pytest.mark.parametrize(("images", "labels", "message"), [
    (np.zeros((2, 4, 4)), [0, 1], "the images are float64 of shape"),
    (np.zeros((2, 4, 4, 4), np.uint8), [0, 1], r"give uint8 of shape \(N, S, S\) or"),
    (np.zeros((2, 4, 5), np.uint8), [0, 1], r"the images are torch.uint8 of shape \(2, 3, 4, 5\)"),
    (np.zeros((2, 4, 4), np.uint8), [0, -1], "the labels are not whole numbers from 0"),
    (np.zeros((2, 4, 4), np.uint8), [0], r"the labels are torch.int64 of shape \(1,\) for 2 images"),
])
def test_arrays_of_another_kind_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        dgs.ImageTensors.from_arrays(images, labels)


def test_arms_are_compared_without_a_folder():
    rows = pd.DataFrame({"method": ["a"] * 4 + ["b"] * 4, "network": "convnet3", "ipc": 10, "pool_seed": "",
                         "selection_seed": "", "training_seed": [0, 1, 2, 3] * 2,
                         "best": [60.0, 61, 62, 61, 50, 52, 51, 50], "n_test": 500})
    found = dgs.compare(rows, "a", "b", by="method", measure="best")
    assert found["difference"].tolist() == [61 - 50.75]
    assert found["low"][0] > 0
    assert found["p"][0] < 0.05


def test_rows_give_tables_and_figures():
    rows = pd.DataFrame([{"method": method, "network": "convnet3", "protocol": "idc", "label": "H-A", "ipc": 10,
                          "pool_seed": 0, "selection_seed": 0, "training_seed": seed, "best": best, "last": best,
                          "n_test": 100, "norm": "instance", "image_size": 16, "epochs": 20, "epoch_factor": 0.01,
                          "batch_size": 64, "learning_rate": 0.01, "evaluations": 1}
                         for method, mean in (("easiest", 50.0), ("pool_random", 48.0))
                         for seed, best in enumerate((mean, mean + 1, mean + 3 * (mean > 49)))])
    tables = dgs.tables_of(rows, margin=1.0)
    assert tables["comparison"].loc[("", "Random of pool")].tolist() == ["48.3 ± 0.6"]
    assert tables["rules"]["difference"].tolist() == pytest.approx([3.0])
    assert {"accuracy", "rules"} == set(dgs.figures_of(rows))
    assert list(rows)[:2] == ["method", "network"]  # the frame is left as it is


def test_scorers_are_trained_and_sets_condensed_in_memory(tmp_path):
    train, test = (dgs.ImageSet.read(write_digits(tmp_path / name, *part)) for name, part in
                   (("train", (0, 60)), ("test", (60, 80))))
    settings = {"network": "convnet3", "size": 8, "epochs": 3, "seed": 1, "flip": False, "device": "cpu"}
    scorer, curve = dgs.train_scorer(train, test, **settings)
    again, _ = dgs.train_scorer(train, test, **settings)
    pairs = zip(scorer.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert curve["epoch"].tolist() == [1, 2, 3]
    scores = dgs.score_images(test, scorer)
    assert 100 * (scores["prediction"] == scores["label"]).mean() == pytest.approx(curve["top1"].iloc[-1], abs=5)
    images, losses = dgs.condense_set(train, method="dm", ipc=2, image_size=8, iterations=2, device="cpu")
    assert images.images.shape == (6, 3, 8, 8)
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert losses["iteration"].tolist() == [1, 2]


def test_diffusion():
    with torch.random.fork_rng():  # initial weights come from torch's own generator, as any layer's do
        model = dgs.DiT(input_size=8, patch_size=2, in_channels=3, hidden_size=16, depth=2, num_heads=2, num_classes=4,
                        learn_sigma=True).eval()
        network = dgs.build_network("convnet3", num_classes=4, image_size=8, norm="batch").eval()
    rng = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(2, 3, 8, 8, generator=rng) for _ in range(2))
    t, y = torch.tensor([3, 40]), torch.tensor([0, 3])
    assert network(x).shape == (2, 4)
    process = dgs.NoiseProcess(steps=50)
    loss = process.training_loss(model(x, t, y), x, t, noise)
    posterior = process.respaced(5).posterior(x, model(x, t, y), torch.tensor([0, 4]))
    assert loss[0].shape == (2,)
    assert posterior.mean.shape == x.shape
    criterion = dgs.MinimaxCriterion(memory_size=4, weight_representative=0.002, weight_diverse=0.008)
    assert all(term.isfinite() for term in criterion(x, noise, y))
    tuned = dgs.add_difffit(model)
    names = dgs.trainable_parameters(tuned)
    assert any("gamma" in name for name in names)
    with torch.no_grad():
        for name, parameter in names.items():
            if "gamma" in name:
                parameter.fill_(1.5)
        for parameter in tuned.final_layer.parameters():
            parameter.fill_(0.1)  # fresh ones are zero, which would hide all before them
    changed = tuned(x, t, y)
    torch.testing.assert_close(dgs.fold(tuned)(x, t, y), changed)


def test_a_base_model_in_memory():
    latents = Latents(torch.randn(6, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.empty(0),
                      torch.tensor([0, 0, 1, 1, 2, 2]))
    settings = {"hidden_size": 8, "depth": 2, "num_heads": 2, "train_steps": 3, "train_batch": 2, "device": "cpu"}
    before = torch.random.get_rng_state()
    (model, losses), (again, _), (other, _) = (dgs.train_dit(latents, seed=seed, **settings) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert losses["step"].tolist() == [1, 2, 3]
    assert (model.config.num_classes, model.config.in_channels, model.config.input_size) == (3, 1, 4)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    assert not all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    with pytest.raises(ValueError, match="train_step is not a parameter of 00_prepare; did you mean 'train_steps'"):
        dgs.train_dit(latents, train_step=3)


def test_a_fine_tuning_in_memory():
    with torch.random.fork_rng():
        base = dgs.DiT(input_size=4, patch_size=2, in_channels=1, hidden_size=8, depth=2, num_heads=2, num_classes=2)
    latents = Latents(torch.randn(4, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.empty(0),
                      torch.tensor([0, 0, 1, 1]))
    weights, losses = dgs.fine_tune_model(base, latents, conditions=[1, 0], steps=2, batch_size=2, device="cpu")
    assert losses["step"].tolist() == [1, 2]
    assert weights.keys() == dgs.trainable_parameters(base).keys()


# ---- The snippets of the pages ---------------------------------------------------------------------------------------

def snippet(page: str, title: str) -> str:
    section = (ROOT / page).read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    [code] = re.findall(r"```python\n(.*?)```", section, re.S)
    return code


def test_readme_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_digits(tmp_path / "mine", 0, 10)
    write_digits(tmp_path / "others", 10, 20)
    write_digits(tmp_path / "real", 60, 100)
    arrays, folders = snippet("README.md", "From Python"), snippet("dgs_utils/README.md", "The public API")
    assert len(arrays.splitlines()) == 8
    found = {}
    exec(arrays, found)
    assert np.bincount(found["labels"][900:][found["chosen"]]).tolist() == [10] * 10
    assert "wasserstein" in found["sampler"].report_
    exec(folders, found)
    assert found["rows"]["n_test"].tolist() == [120] * 6
    assert found["rows"].groupby("method")["last"].mean()["mine"] > 50
    printed = capsys.readouterr().out
    assert "mine" in printed.splitlines()[-1]
    assert "others" in printed.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "others", "real"}  # nothing was written


def test_the_statistics_page_s_snippet_runs(capsys):
    exec(re.search(r"```python\n(.*?)```", (ROOT / "notebooks" / "statistics.md").read_text(), re.S)[1], {})
    sentence = capsys.readouterr().out
    assert "mine is 5.0 points above random" in sentence
    assert "1 selection, 3 trainings" in sentence
