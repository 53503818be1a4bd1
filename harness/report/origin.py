"""Where an imported run comes from: a sealed file beside its plan, which `bench import` writes."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ...datasets.invalid import explain
from ...methods import UserError
from ..runs.run import ORIGIN
from ..runs.sealed import read_sealed, seal


class Origin(BaseModel):
    """``bundle``: its name as the user gave it.  ``sha256`` of the bundle's bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str
    sha256: str

    @property
    def name(self) -> str:
        """Name and the beginning of the checksum: two bundles may have one name."""
        return f"{self.bundle} {self.sha256[:8]}"

    def sealed(self) -> bytes:
        """The file ``origin.json``."""
        return seal(self.model_dump())


def read_origin(folder: Path) -> Origin | None:
    """The origin of a run; None for one that was made here.  Raises ``UserError`` when the file is damaged."""
    path = folder / ORIGIN
    if not path.exists():
        return None
    try:
        return Origin.model_validate(read_sealed(path))
    except ValidationError as error:
        raise UserError(f"{path} is no origin that this version understands:\n{explain(error, 'origin')}") from error
