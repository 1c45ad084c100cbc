"""Warnings: one line a kind, all of them in the manifest, and those that decide once more below a run's last line."""

import io
import json
import warnings

import numpy as np
import pytest
from restamp import certify
from small_world import make_prepare, open_stage, write_digits

import dgs_utils as dgs
from dgs_utils.difficulty import score_source
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.grouped_warnings import group_warnings
from dgs_utils.store.manifest import read_manifest
from dgs_utils.workflow.display import Display
from dgs_utils.workflow.notebook import Report
from dgs_utils.workflow.summary import summary

KINDS = {
    "class {} has 3 images in the pool, fewer than ipc × pool_factor = 10; all of them are used": "classes",
    "class {}: pool: every pair of thresholds leaves a bin empty or has no spread, so nothing is clipped": "classes",
    "class {} of /data/pool is not among the originals, so its images are left out": "classes",
    "/data/{}.zip is not used, since there are images beside it": "warnings of one kind",
}
NAMES = ["n01440764", "golden retriever", "0", "ñandú", "cup of tea", "cat's"]


@pytest.mark.parametrize(("text", "counted"), KINDS.items())
def test_what_differs_in_its_class_number_or_path_is_one_kind(text, counted):
    found = [text.format(name.replace(" ", "_")) if "zip" in text else text.format(name) for name in NAMES]
    [line] = group_warnings(found, "manifest.json")
    assert line == f"6 {counted}, all in manifest.json; the first: {found[0]}"


def test_kinds_keep_their_order_and_sentences_that_stand_alone_their_words():
    found = [text.format(name) for name in ("cat", "n02084071") for text in KINDS] + ["fp16 is slow"] * 2
    lines = group_warnings(found)
    assert len(lines) == len(KINDS) + 1
    assert lines[-1] == "fp16 is slow"
    assert [line.rpartition("the first: ")[2] for line in lines[:-1]] == [text.format("cat") for text in KINDS]


def test_a_thousand_classes_are_two_lines_and_the_manifest_has_all(tmp_path, outputs, capsys):
    run = open_stage("00_prepare", dataset="folder", root=str(tmp_path))
    said = [f"class n{i:08} has {i % 7} images in the pool; all of them are used" for i in range(1000)]
    for sentence in said:
        run.warn(sentence)
    run.finish()
    printed = [line.strip() for line in capsys.readouterr().out.splitlines() if "Warning: " in line]
    assert printed == [f"Warning: {said[0]}", f"Warning: 1000 classes, all in manifest.json; the first: {said[0]}"]
    assert read_manifest(run.folder)["warnings"] == said
    screen = io.StringIO()
    Display(screen).finished(Report(run.node, "done"))
    assert screen.getvalue().count("Warning: ") == 1
    assert printed[1] in screen.getvalue()
    assert "Warning" not in summary([Report(run.node, "done")])  # nothing here decides


def test_the_sampler_warns_once_of_what_holds_for_every_class():
    labels = np.repeat(np.arange(30), 20)
    sampler = dgs.DifficultyGuidedSampler(ipc=3, random_state=0).fit(np.tile(np.linspace(0, 1, 20), 30), labels)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sampler.select(np.full(600, 0.5), labels)
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == len({text.partition("class 0: ")[2] for text in texts}) < 4
    assert all(text.startswith("30 classes; the first: class 0: pool: ") for text in texts)
    assert (sampler.report_["note"] != "").all()


@pytest.mark.parametrize("outcome", ["done", "skipped"])
def test_a_scorer_that_recognises_nothing_stands_below_the_last_line(tmp_path, outputs, outcome):
    prepare = make_prepare(write_digits(tmp_path / "real", 0, 16))
    table = read_table(prepare / "classes.csv")
    table.assign(index=np.roll(table["index"], 1)).to_csv(prepare / "classes.csv", index=False)
    certify(prepare)
    run = open_stage("03_difficulty", source="originals", prepare=str(prepare))
    score_source(run)
    run.finish()
    doubts = read_manifest(run.folder)["decisive"]
    assert "are answered by other outputs of the scorer than" in doubts[0]
    lines = summary([Report(run.node, outcome), Report(run.node, "blocked")]).splitlines()
    assert lines[-len(doubts) :] == [f"Warning: {doubt} ({run.folder})" for doubt in doubts]
    path = run.folder / "manifest.json"  # as an older kit wrote it
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items()
                                if name != "decisive"}))
    assert "Warning" not in summary([Report(run.node, outcome)])
