"""The folder that bundles may be loaded from while the service runs; nothing outside is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from models.bundle import MANIFEST
from service.errors import InvalidRequest
from service.schemas import check_text


@dataclass(frozen=True, slots=True)
class Label:
    """What a bundle's manifest says of it, before anything is verified."""

    version: str
    fingerprint: str


class Shelf:
    """Bundles by the name of their folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"<Shelf {self._folder.name}>"

    def without_place(self, text: str) -> str:
        """What is said of a bundle, without where the folder lies."""
        return text.replace(f"{self._folder.resolve()}/", "")

    def find(self, name: str) -> Path:
        """The bundle's folder; `InvalidRequest` if it, or what is in it, does not lie here."""
        root = self._folder.resolve()
        path = root / name
        if name in {"", ".", ".."} or Path(name).name != name or "\\" in name:
            raise InvalidRequest("bundle must be the name of a folder, not a path")
        if path.is_symlink():
            raise InvalidRequest(f"bundle {name} is a link; only folders are loaded")
        if not (path / MANIFEST).is_file():
            raise InvalidRequest(f"there is no bundle {name} in the models directory")
        for file in path.iterdir():
            if not file.resolve().is_relative_to(path):
                raise InvalidRequest(f"bundle {name}: {file.name} is a link that leaves the folder")
        return path

    def read(self, name: str) -> Label:
        """Version and fingerprint of a bundle; `InvalidRequest` if its manifest names none."""
        path = self.find(name)
        try:
            manifest = json.loads((path / MANIFEST).read_bytes())
            label = Label(str(manifest["version"]), str(manifest["fingerprint"]))
            check_text(label.version)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(f"bundle {name}: its manifest cannot be read") from error
        return label
