"""Published values are the paper's."""

from dgs_utils.methods import METHODS
from dgs_utils.results.published_tables import published_table


def test_published_tables_are_the_paper_s():
    sizes = {1: 81, 2: 24, 3: 15, 4: 15}
    for number, size in sizes.items():
        frame = published_table(number)
        assert len(frame) == size
        assert not frame[["dataset", "ipc", "network", "method", "mean", "pool_factor"]].isna().any(axis=None)
        assert set(frame["method"]) <= METHODS.keys()
    first = published_table(1).set_index(["network", "ipc", "method"])
    for key, mean, std in [(("resnet_ap10", 10, "dgs"), 37.4, 0.3), (("convnet6", 50, "minimax"), 51.4, 0.4),
                           (("resnet18", 10, "idc"), 36.9, 0.4), (("convnet6", 10, "first"), 24.3, 1.1)]:
        assert first.loc[key, ["mean", "std"]].tolist() == [mean, std]
    # [F §8.4]: the same three cells stand in three tables
    woof = first.xs("resnet_ap10").xs("dgs", level="method")["mean"]
    scale = published_table(3).query("distribution == 'scale'").set_index("ipc")["mean"]
    five = published_table(4).query("pool_factor == 5").set_index("ipc")["mean"]
    assert woof.to_dict() == scale.to_dict() == five.to_dict() == {10: 37.4, 20: 45.5, 50: 57.1}
