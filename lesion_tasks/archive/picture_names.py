"""A folder of pictures under any names -> the one that a cell of a table means."""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from lesion_tasks import UnusableInputError
from lesion_tasks.archive.folder import PICTURE_SUFFIXES

# What is read but never ingested: beside a picture it is the original of it, and must not answer to its name.
ALSO_READ = frozenset({"dcm"})
_LEFT_OUT = frozenset({"__MACOSX", "__pycache__"})


class AmbiguousPictureError(Exception):
    """A name that two files answer to; the message names them."""


def without_suffix(name: str, also: frozenset[str] = frozenset()) -> str:
    """Return a name without the ending of a picture; other endings, but for those of `also`, belong to the name."""
    stem, _, suffix = name.rpartition(".")
    return stem if stem and suffix.lower() in PICTURE_SUFFIXES | also else name


class PictureNames:
    """Pictures by name, such as all of a folder. Nothing but names is read; hidden files and folders are left out.

    `also` are endings that count besides those of PICTURE_SUFFIXES.
    """

    def __init__(
        self, root: Path, paths: Iterable[str] | None = None, *, also: frozenset[str] = frozenset()
    ) -> None:
        self.root = root
        self.also = also
        # Relative, with slashes.
        self.paths: list[str] = sorted(_pictures_below(root, also) if paths is None else paths)
        self._by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            self._by_stem[without_suffix(path.rpartition("/")[2], also)].append(path)

    def __len__(self) -> int:
        return len(self.paths)

    def find(self, name: str) -> str | None:
        """Return the path of the picture that a cell names, with or without its folders and its ending.

        Folders that both have agree, from the last one on: another patient's picture of the same name is not meant.
        None if there is none. Raises AmbiguousPictureError if two files answer to the name.
        """
        named = PurePosixPath(name.replace("\\", "/"))
        stem = without_suffix(named.name, self.also)
        found = self._by_stem.get(stem, [])
        if stem != named.name:
            found = [path for path in found if PurePosixPath(path).name == named.name]
        found = [path for path in found if _folders_agree(path, named)]
        if len(found) > 1:
            found = [path for path in found if _ends_with(path, named, self.also)] or found
        if len(found) > 1:
            exact = [path for path in found if path == str(named)]
            if len(exact) != 1:
                raise AmbiguousPictureError(f"{' and '.join(found[:3])} answer to it")
            found = exact
        return found[0] if found else None

    def names_one(self, cell: str) -> bool:
        """Tell whether a cell names a picture, or several."""
        try:
            return bool(cell) and self.find(cell) is not None
        except AmbiguousPictureError:
            return True


def _folders_agree(path: str, named: PurePosixPath) -> bool:
    ours = PurePosixPath(path).parent.parts
    theirs = [part for part in named.parent.parts if part not in {"/", ".", ".."}]
    return all(one == other for one, other in zip(reversed(ours), reversed(theirs), strict=False))


def _ends_with(path: str, named: PurePosixPath, also: frozenset[str]) -> bool:
    """Tell whether the folders of a cell are the last ones of a path, whether or not the cell has the ending."""
    parts = PurePosixPath(path).parts
    wanted = [part for part in named.parts if part not in {"/", "."}]
    wanted[-1] = without_suffix(wanted[-1], also)
    return [*parts[:-1], without_suffix(parts[-1], also)][-len(wanted) :] == wanted


def _refuse(error: OSError) -> None:
    raise UnusableInputError(
        f"folder {error.filename}: {error.strerror}; expected one that may be read"
    ) from error


def _pictures_below(root: Path, also: frozenset[str]) -> list[str]:
    found = []
    for folder, folders, files in os.walk(root, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _LEFT_OUT]
        below = Path(folder).relative_to(root)
        for name in files:
            if not name.startswith(".") and without_suffix(name, also) != name:
                found.append((below / name).as_posix())
    return found
