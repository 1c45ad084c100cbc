"""Modes that images are drawn towards: stratified by difficulty, on any model; such pools do not nest."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import draw_weights
from restamp import certify
from sklearn.cluster import KMeans
from small_grid import build
from small_world import make_prepare, open_stage, outputs_below, write_digits

from dgs_utils import fine_tune, pool, sample
from dgs_utils.difficulty import score_source
from dgs_utils.diffusion.autoencoder import load_autoencoder
from dgs_utils.diffusion.dit import DiT
from dgs_utils.diffusion.latents import Latents, encode
from dgs_utils.diffusion.modes import cap_counts, stratified_modes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.pool.from_model import class_modes
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.selection.score_tables import read_scores
from dgs_utils.workflow.experiment import read_experiment
from dgs_utils.workflow.planner import plan

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers


# ---- Centres ---------------------------------------------------------------------------------------------------------

@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(0, 6), min_size=2, max_size=8), wanted=st.lists(st.integers(0, 6), min_size=8,
                                                                                 max_size=8))
def test_what_a_bin_lacks_goes_to_the_nearest_bins_that_have_more(sizes, wanted):
    sizes, wanted = np.array(sizes), np.array(wanted[: len(sizes)])
    if wanted.sum() > sizes.sum():
        wanted = np.minimum(wanted, sizes)
    found = cap_counts(wanted, sizes)
    assert found.sum() == wanted.sum()
    assert (found <= sizes).all()
    kept = np.minimum(wanted, sizes).tolist()  # image by image, in the words of the docstring
    for lacking in range(len(sizes)):
        for _ in range(max(0, wanted[lacking] - sizes[lacking])):
            roomy = [k for k in range(len(sizes)) if kept[k] < sizes[k]]
            kept[min(roomy, key=lambda k: (abs(k - lacking), k))] += 1
    assert found.tolist() == kept


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), count=st.integers(1, 20))
def test_each_bin_has_centres_of_its_own_images_in_proportion(seed, count):
    rng = np.random.default_rng(seed)
    latents, scores = torch.tensor(rng.normal(size=(20, 1, 2, 2)), dtype=torch.float32), rng.beta(0.4, 1, 20)
    found = stratified_modes(latents, scores, count).flatten(1).numpy()
    members = np.minimum((scores * 10).astype(int), 9)
    shares = [count * int((members == k).sum()) / 20 for k in range(10)]
    counts = [int(share + 1e-9) for share in shares]
    by_rest = sorted(range(10), key=lambda k: (round(counts[k] - shares[k], 9), k))
    for k in by_rest[: count - sum(counts)]:
        counts[k] += 1
    start = 0
    for k, number in enumerate(counts):
        own = latents[torch.from_numpy(members == k)].flatten(1).numpy()
        if number:
            centres = KMeans(number, random_state=0, n_init="auto").fit(own).cluster_centers_
            np.testing.assert_allclose(found[start : start + number], centres, atol=1e-6)
        start += number
    assert start == count == len(found)


def test_a_shape_gives_hard_bins_their_share():
    latents, scores = torch.arange(40.0).view(40, 1, 1, 1), np.linspace(0, 1, 40)
    found = stratified_modes(latents, scores, 10, "cliff").flatten().tolist()
    # Six, three, none and one are wanted of bins of four; the two that the first lacks go to the next two.
    assert [sum(lower <= value < lower + 4 for value in found) for lower in range(0, 40, 4)] == [4, 4, 1, 1] + [0] * 6


# ---- The stages ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A 00 folder over real digits with latents and a small DiT, and its originals' scores."""
    root = tmp_path_factory.mktemp("modes")
    with outputs_below(root):
        folder = make_prepare(write_digits(root / "real", 0, 12))
        autoencoder, classes = load_autoencoder(folder, 1), pd.read_csv(folder / "classes.csv", dtype={"class": str})
        classes.assign(condition=classes["label"]).to_csv(folder / "classes.csv", index=False)
        encode(ImageSet.read(folder, "train"), autoencoder, 8, False).save(folder / "latents.safetensors")
        model = DiT(input_size=8, patch_size=2, in_channels=1, hidden_size=32, depth=2, num_heads=2, num_classes=3)
        draw_weights(model, seed=0).save_pretrained(folder / "dit")
        certify(folder)
        run = open_stage("03_difficulty", prepare=str(folder), source="originals")
        scores = score_source(run)  # of digits nearly all are easy, so others are put in their place
        spread = numpy_rng("spread").random(len(scores))
        scores.assign(score=spread).to_csv(run.folder / "scores.csv", index=False)
        run.finish()
        yield folder, run.folder


def generated(prepare, originals, **values):
    given = {"originals": str(originals)} if values["generator"] == "strata" else {}
    run = open_stage("02_pool", prepare=str(prepare), images_per_class=6, steps=4, batch_size=4, **given,
                     **values)
    pool.generate(run)
    run.finish()
    return run


def test_strata_guide_each_image_towards_a_centre_of_its_bin(prepared):
    prepare, originals = prepared
    run = generated(prepare, originals, generator="strata")
    modes = class_modes(run, {"1"})["1"]
    latents, images = Latents.load(prepare / "latents.safetensors"), ImageSet.read(prepare, "train")
    own = (images.table["class"] == "1").to_numpy()
    scores = read_scores(originals).set_index("file_name")["score"][images.table["file_name"][own]].to_numpy()
    expected = stratified_modes(latents.mean[torch.from_numpy(own), 0], scores, 6)
    assert torch.equal(modes, expected)
    other = class_modes(open_stage("02_pool", prepare=str(prepare), generator="mgd3", images_per_class=6), {"1"})
    assert not torch.allclose(modes.sum(0), other["1"].sum(0))
    assert len(list((run.folder / "images").rglob("*.png"))) == 18
    assert "-strata-" in run.folder.name


def tuned(prepare, criteria):
    run = open_stage("01_fine_tune", prepare=str(prepare), criteria=criteria, steps=3, batch_size=4,
                     learning_rate=0.05, ema_decay=0.0)
    losses = fine_tune.fine_tune(run)
    run.finish()
    return run.folder, losses


def test_without_criteria_the_diffusion_loss_alone_is_trained_on(prepared):
    prepare, originals = prepared
    (plain, losses), (minimax, others) = (tuned(prepare, criteria) for criteria in ("none", "minimax"))
    assert not losses[["representative", "diverse"]].to_numpy().any()
    assert others["representative"].iloc[1:].all()
    assert losses["mse"].iloc[0] == others["mse"].iloc[0]
    assert (losses["mse"] != others["mse"]).any()
    assert "-plain-" in plain.name
    assert "-minimax-" in minimax.name
    runs = [generated(prepare, originals, fine_tune=str(folder), **values)
            for folder, values in ((plain, {"generator": "plain"}), (minimax, {"generator": "minimax"}),
                                   (plain, {"generator": "mgd3", "base": "plain"}))]
    runs += [generated(prepare, originals, generator="dit"), generated(prepare, originals, generator="mgd3")]
    whole = [b"".join(file.read_bytes() for file in sorted(run.folder.rglob("*.png"))) for run in runs]
    assert len(set(whole)) == 5
    with pytest.raises(ValueError, match=r"fine-tuned with criteria 'minimax', and the pool asks for 'plain'"):
        generated(prepare, originals, generator="plain", fine_tune=str(minimax))


def test_a_prefix_of_a_pool_by_modes_is_refused(prepared):
    prepare, originals = prepared
    made = generated(prepare, originals, generator="strata")

    def read(**values):
        run = open_stage("05_sample", prepare=str(prepare), pool=str(made.folder), **values)
        return sample.read_source(run)

    with pytest.raises(ValueError, match=r"first 4 images a class are wanted of a pool of 6 by generator strata.* set "
                                         r"pool\.images_per_class to 4, or sample\.pool_factor to 0"):
        read(method="pool_random", ipc=2, pool_factor=2)
    assert len(read(method="pool_random", ipc=2, pool_factor=3).images) == 18
    assert len(read(method="pool_random", ipc=2, pool_factor=0).images) == 18


@pytest.mark.parametrize(("content", "sentence"), [
    ("pool: {generator: mgd3, images_per_class: 60}", "first 50 images a class are wanted of a pool of 60 by"),
    ("fine_tune: {criteria: none}", r"pool\.generator is minimax, but fine_tune\.criteria is none; set pool\."),
    ("fine_tune: {criteria: none}\npool: {generator: mgd3, base: minimax, images_per_class: 50}",
     r"pool\.base is minimax, but fine_tune\.criteria is none"),
])
def test_a_plan_says_what_does_not_go_together(tmp_path, monkeypatch, content, sentence):
    monkeypatch.chdir(build(tmp_path / "w"))
    (tmp_path / "w" / "params" / "small.yaml").write_text(f"{content}\nevaluate: {{}}\n")
    with pytest.raises(ValueError, match=sentence):
        plan(read_experiment("params/small.yaml"))


def test_one_grid_compares_what_was_fine_tuned_with_and_without_criteria(tmp_path, monkeypatch):
    monkeypatch.chdir(build(tmp_path / "w"))
    (tmp_path / "w" / "params" / "small.yaml").write_text(
        "evaluate: {}\npool: {base: plain}\ngrid:\n  sample.method: [dit, plain, minimax, mgd3, strata]\n"
        "  sample.ipc: [5, 10]\n")
    nodes = plan(read_experiment("params/small.yaml"))
    assert [n.params.criteria for n in nodes if n.stage == "01_fine_tune"] == ["none", "minimax"]
    pools = [(n.params.generator, n.params.images_per_class) for n in nodes if n.stage == "02_pool"]
    assert sorted(pools) == [("dit", 50), ("mgd3", 5), ("mgd3", 10), ("minimax", 50), ("plain", 50), ("strata", 5),
                             ("strata", 10)]
