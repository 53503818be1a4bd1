"""Models of the transformers library from a local folder in its layout."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import safetensors
import torch

from ..core.errors import UserError
from .checkpoints import file_sha256

# what the library raises on a folder that is damaged or of another kind
_DAMAGE = (
    *(OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, EOFError),
    *(pickle.UnpicklingError, safetensors.SafetensorError),
)


def load_pretrained(model_class: str, folder: Path) -> Any:
    """A model of transformers from a folder in its layout, float32, for inference.

    Raises ``UserError`` when the folder holds another model: the library would fill the rest with random numbers.
    """
    import transformers

    kind = getattr(transformers, model_class)
    log: Any = transformers.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()  # what it would warn of is an error here
    log.disable_progress_bar()
    try:
        model, found = kind.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    except _DAMAGE as error:
        raise UserError(f"{folder} cannot be read as a {model_class}: {error}") from error
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
    wrong = sorted({*found["missing_keys"], *(entry[0] for entry in found["mismatched_keys"])})
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{folder} holds no {model_class}: {', '.join(wrong[:3])}{more} are missing or have another shape.  Name a "
            "folder in the layout of transformers (of a proposer: --option proposer_weights=FOLDER)"
        )
    return model.eval()


def weights_sha256(folder: Path) -> str:
    """Hash over the names and contents of a folder's configurations and weights, whichever of them are read."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin"))
    named = "".join(f"{path.name} {file_sha256(path)}\n" for path in files)
    return hashlib.sha256(named.encode()).hexdigest()
