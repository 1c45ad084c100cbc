"""Models in diffusers' folder layout, from disk or from the hub: of the right kind, complete, and never unpickled."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import logging
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

Model = TypeVar("Model", bound=ModelMixin)


def download_model(name: str, hint: str, subfolder: str = "") -> Path:
    """Return the local copy of a hub repository's model folder, downloaded if it is not cached yet.

    Raises:
        ValueError: no network, no access, or no such repository; the sentence ends with the hint what to do then.
    """
    prefix = f"{subfolder}/" if subfolder else ""
    try:
        for suffix in ("safetensors", "bin"):  # some repositories have pickles only, which are read weights_only
            patterns = [f"{prefix}config.json", f"{prefix}diffusion_pytorch_model*.{suffix}*"]
            folder = Path(snapshot_download(name, allow_patterns=patterns)) / subfolder
            if any(folder.glob(f"*.{suffix}")):
                break
    except (OSError, HFValidationError) as error:
        raise ValueError(f"{name} could not be downloaded from the hub ({_first_line(error)}); {hint}") from None
    return folder


def open_model_folder(model_class: type[Model], folder: Path, hint: str, class_names: Sequence[str] = ()) -> Model:
    """Return the model in a folder that ``save_pretrained`` wrote, in float32, with every weight from its files.

    ``class_names`` are those that ``config.json`` may have, where they differ from that of ``model_class``.

    Raises:
        ValueError: a file is missing or damaged, or has another model or a part of one only; the sentence ends with
            the hint what to do.
    """
    class_names = class_names or (model_class.__name__,)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; {hint}")
    verbosity = logging.get_verbosity()
    try:
        logging.set_verbosity(logging.CRITICAL)  # diffusers warns about what is checked here
        name = model_class.load_config(folder).get("_class_name")
        if name not in class_names:
            raise ValueError(f"it holds a model of class {name}, not {class_names[0]}")
        files = [path.name for path in folder.glob("diffusion_pytorch_model*")]
        variant = "fp16" if files and all(".fp16" in file for file in files) else None
        model, report = model_class.from_pretrained(folder, output_loading_info=True, variant=variant)
        for names, verb in ((report["missing_keys"], "lacks"), (report["unexpected_keys"], "has the unknown")):
            if names:  # of which diffusers only warns, and draws random weights
                raise ValueError(f"it {verb} {sorted(names)[0]}")
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder} cannot be used ({_first_line(error)}); {hint}") from None
    finally:
        logging.set_verbosity(verbosity)
    return model


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".: ")
