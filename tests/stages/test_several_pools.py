"""One pool of several generators' images: taking turns, from folders and archives, on strangers' real pools."""

import zipfile
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from small_world import CLASSES, make_prepare, open_stage, write_digits

from dgs_utils import evaluate, figures, plots, pool, sample
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.pixels import load_rgb
from dgs_utils.images.prepare_dataset import index_originals
from dgs_utils.plots import style
from dgs_utils.publish import dataset as publish
from dgs_utils.results.rows import read_results
from dgs_utils.workflow.experiment import read_experiment

POOLS = ["BigGAN", "ReACGAN", "SNGAN-conditional", "cSAGAN", "cSNGAN"]


def gathered(prepare, roots, **values):
    run = open_stage("02_pool", prepare=str(prepare), generator="folder", root=roots, **values)
    table = pool.generate(run)
    run.finish()
    return run, table


@pytest.fixture
def two(tmp_path, outputs):
    """A prepare folder, a folder of 9 images a class and an archive of 5."""
    prepare = make_prepare(write_digits(tmp_path / "real", 0, 20), val=4)
    big, small = write_digits(tmp_path / "big", 20, 29), write_digits(tmp_path / "small", 30, 35)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for file in sorted(small.rglob("*.png")):
            archive.write(file, file.relative_to(small))
    return prepare, big, tmp_path / "packed.zip"


def test_generators_take_turns_until_one_has_no_more(two):
    prepare, big, packed = two
    run, table = gathered(prepare, [str(big), str(packed)])
    for _, part in table.groupby("class"):
        assert part["generator"].tolist() == ["big", "packed"] * 5 + ["big"] * 4
        assert part["index"].tolist() == list(range(14))
    images = ImageSet.read(run.folder)  # the order of names is that of the turns
    assert images.table["generator"].tolist() == table["generator"].tolist()
    row = table[table["generator"] == "big"].iloc[-1]
    assert (run.folder / row["file_name"]).read_bytes() == (big / row["source"]).read_bytes()
    assert not (run.folder / "unpacked").exists()


def test_an_archive_alone_is_a_pool_too(two):
    prepare, _, packed = two
    _, table = gathered(prepare, str(packed))
    assert set(table["generator"]) == {"packed"}
    assert (table["class"].value_counts() == 5).all()


def test_the_distilled_set_says_which_generator_made_each_image(two):
    prepare, big, packed = two
    made, _ = gathered(prepare, [str(big), str(packed)])
    run = open_stage("05_sample", prepare=str(prepare), pool=str(made.folder), method="pool_random", ipc=4,
                     pool_factor=2)
    source = sample.read_source(run)
    assert (source.images.table.groupby("class")["generator"].value_counts() == 4).all()  # a prefix holds both alike
    metadata = sample.write_set(run, source, sample.select_images(run, source))
    assert set(metadata["generator"]) == {"big", "packed"}


def test_sources_are_told_from_the_root_of_their_generator_and_are_no_test_images(two):
    """Names in a pool may be those of test images: here both are 0/0.png, 0/1.png, …"""
    prepare, big, packed = two
    for root, ipc in ((str(big), 9), (str(packed), 5), ([str(big), str(packed)], 14)):
        made, table = gathered(prepare, root)
        run = open_stage("05_sample", prepare=str(prepare), pool=str(made.folder), method="pool_random", ipc=ipc,
                         pool_factor=0)
        source = sample.read_source(run)
        metadata = sample.write_set(run, source, sample.select_images(run, source))
        run.finish()
        assert str(big) not in (run.folder / "metadata.csv").read_text()
        told = set(metadata[["generator", "source"]].itertuples(index=False, name=None))
        expected = {(folder.name.partition(".")[0], f"{name}/{i}.png") for folder, count in ((big, 9), (packed, 5))
                    for name in CLASSES for i in range(count) if str(folder) in root}
        assert told == expected
        _, test = evaluate.open_sets(open_stage("06_evaluate", prepare=str(prepare), distilled=str(run.folder),
                                                image_size=8))
        assert set(test.table["file_name"]) & {name for _, name in expected}
        published = publish.collect(run.folder).images.table
        order = ["class", "index"]
        pd.testing.assert_frame_equal(
            published[[*order, "generator", "source"]].sort_values(order, ignore_index=True),
            table[[*order, "generator", "source"]].sort_values(order, ignore_index=True), check_dtype=False)


def test_figures_tell_which_generator_made_what(two):
    prepare, big, packed = two
    made, table = gathered(prepare, [str(big), str(packed)])
    sets, folders = {"the pool": table}, []
    for seed, method in enumerate(("pool_random", "minimax")):  # the first two of each class are one of either
        run = open_stage("05_sample", prepare=str(prepare), pool=str(made.folder), method=method, ipc=2, pool_factor=7,
                         seed=seed)
        source = sample.read_source(run)
        sets[method] = sample.write_set(run, source, sample.select_images(run, source))
        run.finish()
        folders.append(run.folder)
    results = pd.DataFrame({"distilled": [folder.name for folder in folders], "series": ["Chance", "First"]})
    shares = figures.generator_shares(folders, results)
    assert list(shares.index) == ["the pool", "Chance", "First"]
    assert shares.loc["the pool", "packed"] == pytest.approx(100 * 5 / 14)
    assert shares.loc["First", "big"] == 50
    for name, method in (("Chance", "pool_random"), ("First", "minimax")):
        assert shares.loc[name, "big"] == pytest.approx(100 * (sets[method]["generator"] == "big").mean())
    assert shares.sum(axis=1).tolist() == pytest.approx([100] * 3)
    axis = plots.table_heatmaps({"sets": shares}, "generator", "% of the images").axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["the pool", "Chance", "First"]
    assert np.array_equal(axis.collections[0].get_array(), shares.to_numpy())
    parts = sets["minimax"].groupby("class")
    plain = plots.gallery({name: plots.scored_images(part, folders[1]) for name, part in parts})
    assert plain.get_supxlabel() == "A big, B packed"
    assert [text.get_text() for text in plain.axes[0].texts] == ["A", "B", "0", "A", "B", "1", "A", "B", "2"]
    scored = sets["minimax"].assign(score=[0.25, 0.75] * 3)[:2]
    figure = plots.gallery({"row": plots.scored_images(scored, folders[1])})
    assert [text.get_text() for text in figure.axes[0].texts] == [".25 A", ".75 B", "row"]
    plt.close("all")


def test_a_pool_of_one_generator_has_no_shares(two, tmp_path):
    prepare, big, _ = two
    made, _ = gathered(prepare, str(big))
    run = open_stage("05_sample", prepare=str(prepare), pool=str(made.folder), method="pool_random", ipc=2,
                     pool_factor=4)
    source = sample.read_source(run)
    sample.write_set(run, source, sample.select_images(run, source))
    run.finish()
    assert figures.generator_shares([run.folder], pd.DataFrame({"distilled": [], "series": []})).empty


def test_pools_alone_and_together_are_arms_with_controls_of_their_own(two):
    prepare, big, packed = two
    trained = []
    for root in (str(big), str(packed), [str(big), str(packed)]):
        made, _ = gathered(prepare, root)
        for method in ("pool_random", "moderate"):
            run = open_stage("05_sample", prepare=str(prepare), pool=str(made.folder), method=method, ipc=2,
                             pool_factor=2)
            source = sample.read_source(run)
            sample.write_set(run, source, sample.select_images(run, source))
            run.finish()
            run = open_stage("06_evaluate", prepare=str(prepare), distilled=str(run.folder), image_size=8, epochs=3,
                             evaluations=1, repeats=1)
            evaluate.evaluate(run, *evaluate.open_sets(run))
            run.finish()
            trained.append(run.folder)
    results = read_results(trained)
    names = ["big", "packed", "big+packed"]
    assert results["generator"].tolist() == [name for name in names for _ in range(2)]
    assert set(results["series"]) == {f"{rule} ({name})" for rule in ("Random of pool", "Moderate") for name in names}
    best = results.set_index(["method", "generator"])["best"]
    tables = figures.tables_of(results)
    assert set(tables["comparison"].index.get_level_values("series")) == set(results["series"])
    rules = tables["rules"].set_index("control")
    assert set(rules["rule"]) == {"Moderate"}
    assert rules["difference"].to_dict() == pytest.approx(
        {f"random of the pool {name}": best["moderate", name] - best["pool_random", name] for name in names})
    titles = [axis.get_title() or axis.get_title("left") for axis in plots.rule_heatmap(tables["rules"]).axes]
    assert [title.strip().partition("\n")[2] for title in titles if title] == [
        "minus random of the pool big", "minus random of the pool packed", "minus random of the pool big+packed"]
    assert tables["summary"].set_index("series")["pool_random"].to_dict() == pytest.approx(
        {f"Moderate ({name})": best["pool_random", name] for name in names}
        | {f"Random of pool ({name})": np.nan for name in names}, nan_ok=True)
    plt.close("all")


def test_long_names_of_pools_are_folded_at_a_plus():
    assert style.wrap_text("DGS (BigGAN+cSAGAN)", 40) == "DGS (BigGAN+cSAGAN)"
    assert style.wrap_text(f"DGS ({'+'.join(POOLS)})", 40).splitlines() == [
        "DGS (BigGAN + ReACGAN +", "SNGAN-conditional + cSAGAN + cSNGAN)"]


@pytest.mark.usefixtures("styled")
@pytest.mark.parametrize("length", [20, 60, 110])
def test_names_of_many_rivals_do_not_cover_each_other(length):
    rivals = [" ".join(["DGS", *(["judged"] * (length // 7)), str(number)]) for number in range(25)]
    rows = pd.DataFrame({"second": rivals}).assign(first="DGS", condition="ConvNet-3", ipc=10, difference=1.0, low=0.0,
                                                   high=2.0, tost_low=0.2, tost_high=1.8, margin=2.0,
                                                   verdict="undecided")
    figure = plots.differences_to(rows)
    figure.canvas.draw()
    [axis] = figure.axes
    places = [label.get_window_extent() for label in axis.get_yticklabels()]  # from above
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(places))
    assert axis.get_window_extent().width / figure.dpi > 1.5  # inches


def test_names_of_their_own(two):
    prepare, big, _ = two
    with pytest.raises(ValueError, match="each of a name of its own"):
        gathered(prepare, [str(big), str(big)])


def test_strangers_pools_become_one(shared_data, tmp_path, outputs):
    names = [p.stem for p in sorted((shared_data / "cifar10-pools").glob("*.zip"))]
    assert names == POOLS
    real = tmp_path / "real"
    with zipfile.ZipFile(shared_data / "cifar10" / "val.zip") as archive:
        archive.extractall(tmp_path, [n for n in archive.namelist() if n.rpartition("/")[2] in ("0001.jpg", "0002.jpg")]
                           or archive.namelist()[::1000])
    (tmp_path / "val").rename(real)
    run = open_stage("00_prepare", dataset="folder", root=str(real), split="given", base_model="none", channels=3)
    index_originals(run.params, run.folder)
    run.finish()
    made, table = gathered(run.folder, [str(shared_data / "cifar10-pools" / f"{name}.zip") for name in POOLS])
    assert len(table) == 5000
    first = table.groupby("class").head(10)
    assert (first.groupby(["class", "generator"]).size() == 2).all()
    again = pd.read_csv(made.folder / "metadata.csv")
    assert load_rgb(made.folder / again["file_name"].iloc[-1]).size == (32, 32)


def test_a_list_of_roots_is_one_pool_on_the_command_line_too(two):
    _, big, packed = two
    changes = [f"prepare.root={big}", f"pool.root=[{big}, {packed}]", "sample.rule=[draw, d2]", "pool.seed=[0, 1]"]
    experiment = read_experiment(Path(__file__).parents[2] / "params" / "my_pool.yaml", changes)
    assert experiment.sections["02_pool"]["root"] == [str(big), str(packed)]
    assert [sorted(grid) for grid in experiment.grids] == [[("02_pool", "seed"), ("05_sample", "rule")]]


@pytest.mark.usefixtures("styled")
def test_cells_of_generators_keep_their_width_beside_long_names():
    names = ["the pool", *(f"DGS (code, shared scale, judged by a scorer with a long name, cut.{k})" for k in range(9))]
    figure = plots.table_heatmaps({"sets": pd.DataFrame(50.0, names, ["a", "b"])}, "generator", column=0.6)
    figure.canvas.draw()
    [axis] = figure.axes
    assert axis.get_window_extent().width / figure.dpi > 1  # inches, of two columns
    assert all(label.get_window_extent().x0 >= 0 for label in axis.get_yticklabels())
