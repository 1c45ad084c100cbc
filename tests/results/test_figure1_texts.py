"""Texts of Figure 1."""

from dgs_utils.results.figure1_texts import _scorer_of


def test_figure_1_calls_scorers_as_their_libraries_do():
    made = {"00_prepare": {"classifier": "timm:tf_efficientnet_lite0"},
            "03_difficulty": {"scorers": ["scorers/cifar10_resnet_ap10", "resnet18"]}}
    assert _scorer_of(made) == "tf_efficientnet_lite0 + cifar10_resnet_ap10 + ResNet-18"
