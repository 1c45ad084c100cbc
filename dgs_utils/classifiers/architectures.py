"""Classifiers of other libraries: torchvision's by name, timm's as ``timm:<name>`` (extra ``timm``)."""

from typing import Any

import torchvision
from torch import nn

from dgs_utils.runtime.parameters import nearest

TIMM = "timm:"


def check_architecture(name: str) -> None:
    """Raise ValueError for a name that neither torchvision nor timm (``timm:<name>``) has."""
    if name.startswith(TIMM):
        plain, known = name.removeprefix(TIMM).partition(".")[0], _timm().list_models()
        if plain not in known:
            raise ValueError(f"{name!r} is no classifier of timm{_close(plain, known)}")
        return
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(f"{name!r} is no classifier of torchvision{nearest(name, known)}, or of timm, such as "
                         f"timm:resnet50")


def blank(name: str, num_classes: int = 0) -> nn.Module:
    """Return a classifier with random weights; 0 classes = as many as it usually has."""
    outputs = {"num_classes": num_classes} if num_classes else {}
    if name.startswith(TIMM):
        return _timm().create_model(name.removeprefix(TIMM), pretrained=False, **outputs)
    return torchvision.models.get_model(name, weights=None, **outputs)


def timm_pretrained(name: str) -> nn.Module:
    """Return a timm classifier with timm's own weights, downloaded where they are not at hand.

    Raises:
        ValueError: they cannot be had.
    """
    try:
        return _timm().create_model(name.removeprefix(TIMM), pretrained=True)
    except Exception as error:  # the hub's client, the network and timm each have errors of their own
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"the weights of {name} could not be had ({reason}); fetch them on another machine and set "
                         f"prepare.classifier_weights to the file (.safetensors, .pth)") from None


def timm_preprocessing(name: str) -> dict[str, Any]:
    """Return what timm says about a classifier's images, as fields of `judge.ClassifierConfig`."""
    timm = _timm()
    found = timm.data.resolve_data_config(model=blank(name))
    crop = found["input_size"][-1]
    return {"resize": int(crop / found["crop_pct"]), "crop": crop, "mean": tuple(found["mean"]),
            "std": tuple(found["std"]), "interpolation": found["interpolation"], "norm": "batch"}


def _timm() -> Any:
    try:
        import timm
        import timm.data
    except ImportError:
        raise ValueError("classifiers named timm:… need timm; install it with pip install 'dgs-utils[timm]'") from None
    return timm


def _close(name: str, known: list[str]) -> str:
    hint = nearest(name, known)
    return hint if "did you mean" in hint else "; timm.list_models() has their names"
