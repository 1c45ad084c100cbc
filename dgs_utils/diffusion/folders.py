"""Models in diffusers' folder layout, from disk or from the hub: of the right kind, whole, and never unpickled."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import logging
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

Model = TypeVar("Model", bound=ModelMixin)


def from_hub(name: str, remedy: str, subfolder: str = "") -> Path:
    """Return the local copy of a hub repository's model folder, which is downloaded where it is not cached yet.

    Args:
        name: such as "stabilityai/sd-vae-ft-mse".
        remedy: what to do without a network, the end of the error's sentence.
        subfolder: the model's folder inside the repository.

    Raises:
        ValueError: no network, no access, or no such repository.
    """
    stem = f"{subfolder}/" if subfolder else ""
    try:
        for weights in ("safetensors", "bin"):  # some repositories hold pickles only, which are read weights_only
            patterns = [f"{stem}config.json", f"{stem}diffusion_pytorch_model*.{weights}*"]
            folder = Path(snapshot_download(name, allow_patterns=patterns)) / subfolder
            if any(folder.glob(f"*.{weights}")):
                break
    except (OSError, HFValidationError) as error:
        raise ValueError(f"{name} could not be had from the hub ({_first_line(error)}); {remedy}") from None
    return folder


def open_folder(model_class: type[Model], folder: Path, remedy: str, kinds: Sequence[str] = ()) -> Model:
    """Return the model in a folder that ``save_pretrained`` wrote, with every weight from the folder's files.

    Args:
        model_class: its class.
        folder: with ``config.json`` and the weights.
        remedy: what to do, the end of the error's sentence.
        kinds: class names in ``config.json`` that are accepted; () for that of ``model_class``.

    Raises:
        ValueError: a file is missing or damaged, or holds another model or a part of one only.
    """
    kinds = kinds or (model_class.__name__,)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; {remedy}")
    try:
        kind = model_class.load_config(folder).get("_class_name")
        if kind not in kinds:
            raise ValueError(f"it holds a model of class {kind}, not {kinds[0]}")
        with _quiet():
            model, report = model_class.from_pretrained(folder, output_loading_info=True)
        for names, what in ((report["missing_keys"], "lacks"), (report["unexpected_keys"], "has the unknown")):
            if names:  # diffusers only warns and draws random weights
                raise ValueError(f"it {what} {sorted(names)[0]}")
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder} cannot be used ({_first_line(error)}); {remedy}") from None
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep diffusers from warning about what `open_folder` checks itself."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".: ")
