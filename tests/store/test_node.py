"""Keys and folders that notebooks and the planner agree on."""

from pathlib import Path

from stage_folders import write_stage

from dgs_utils.params import STAGES, validate
from dgs_utils.store.lineage import input_folder
from dgs_utils.store.manifest import read_manifest
from dgs_utils.store.node import Node, default_node
from dgs_utils.store.session import open_node


def carry_out_all() -> dict[str, Path]:
    """Carry out every default stage in order, by hand, and return the folders."""
    order = [("00_prepare", {}), ("01_fine_tune", {}), ("02_pool", {}), ("03_difficulty", {"source": "originals"}),
             ("03_difficulty", {}), ("04_transform", {}), ("05_sample", {}), ("06_evaluate", {}), ("07_figures", {}),
             ("08_condense", {})]
    return {f"{stage} {values}": write_stage(stage, **values) for stage, values in order}


def test_default_stages_by_hand_land_where_the_planner_expects_them(outputs):
    folders = carry_out_all()
    assert set(STAGES) == {name.split()[0] for name in folders}
    for name, folder in folders.items():
        stage, values = name.split(" ", 1)
        node = default_node(stage, eval(values))
        assert node.folder == folder
        assert read_manifest(folder)["key"] == node.key
    assert len(set(folders.values())) == len(folders)


def test_naming_the_default_folders_changes_nothing(outputs):
    folders = carry_out_all()
    sample = folders["05_sample {}"]
    inputs = {source["name"]: str(outputs / source["folder"]) for source in read_manifest(sample)["inputs"]}
    run = open_node(validate("05_sample", inputs))
    assert run.folder == sample
    relative = {name: "outputs/" + str(Path(folder).relative_to(outputs)) for name, folder in inputs.items()}
    assert open_node(validate("05_sample", relative)).folder == sample


def test_keys_follow_their_inputs():
    first, second = default_node("05_sample"), default_node("05_sample", {"seed": 1})
    assert first.key != second.key
    evaluated = [Node(validate("06_evaluate", {}), {"prepare": default_node("00_prepare"), "distilled": node})
                 for node in (first, second)]
    assert evaluated[0].key != evaluated[1].key
    lists = [Node(validate("07_figures", {}), {"evaluations": order, "samples": [first]})
             for order in (evaluated, evaluated[::-1])]
    assert lists[0].key == lists[1].key


def test_an_output_folder_can_be_given(outputs, tmp_path):
    folder = write_stage("00_prepare", output=str(tmp_path / "mine"))
    assert folder == tmp_path / "mine"
    assert read_manifest(folder)["key"] == default_node("00_prepare").key
    pool = write_stage("02_pool", generator="folder", root="x", prepare=str(folder))
    [source] = read_manifest(pool)["inputs"]
    assert source["folder"] == str(folder)
    assert input_folder(read_manifest(pool), "prepare") == folder
