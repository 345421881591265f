"""The commented stream that `clray init` writes."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from clray.errors import StorageError


def write_template(path: Path) -> None:
    """Writes the template to `path`. StorageError where a file is there already or cannot be written."""
    text = resources.files("clray.spec").joinpath("template.yaml").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise StorageError(f"{path} is there already; name another file, or remove it") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; name another file") from error
