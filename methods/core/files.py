"""The cache folder, and writing a file of it whole or not at all."""

import os
import platform
import uuid
from hashlib import sha256
from pathlib import Path


def cache_folder() -> Path:
    """Where things that can be made again are kept: ``$OVSS_CACHE``, else ``~/.cache/ovss``."""
    return Path(os.environ.get("OVSS_CACHE") or Path.home() / ".cache" / "ovss")


def write_to_cache(path: Path, content: bytes) -> None:
    """Write a file that can be made again: it gets its name by rename, and nothing waits for the disk.

    A temporary file has the name that ``ovss.datasets.writing.clean_temporaries`` knows, so that what a killed process
    leaves is removed.  Raises ``OSError``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    host = sha256(platform.node().encode()).hexdigest()[:8]
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}-{host}{uuid.uuid4().hex[:12]}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
