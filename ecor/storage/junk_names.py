"""Names of files and folders that are left out: hidden ones, and those that systems and file servers add, by kind."""

from collections.abc import Mapping

_RESOURCE_FORKS, _SYSTEM, _NAS, _HIDDEN = "resource_forks", "system_files", "nas_files", "hidden"
_NAMES: Mapping[str, frozenset[str]] = {
    _RESOURCE_FORKS: frozenset({"__macosx"}),
    _SYSTEM: frozenset(
        {"thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "icon\r", ".ds_store", ".localized"}
        | {"$recycle.bin", "recycler", "system volume information", "lost+found", ".directory"}
        | {".trashes", ".fseventsd", ".spotlight-v100", ".temporaryitems", ".documentrevisions-v100"}
    ),
    _NAS: frozenset(
        {"@eadir", "#recycle", "@recycle", "network trash folder", "@tmp", "@__thumb", ".@__thumb"}
        | {"#snapshot", "~snapshot", "@recently-snapshot", ".snapshot", ".appledouble", ".appledb", ".appledesktop"}
    ),
}
"""By kind, in lower case. Snapshots hold each picture once more."""
_ENDINGS = {":zone.identifier": _SYSTEM, "@synoeastream": _NAS, "@synoresource": _NAS}
"""Of files beside a file that hold what its disk cannot, in lower case."""


def junk_kind(name: str) -> str | None:
    """Kind of a file or folder that is left out by its name; None for any other.

    Args:
        name: the last part of a path.

    Returns:
        `resource_forks` (what macOS adds to archives), `system_files`, `nas_files` (thumbnails, bins and snapshots of
        file servers) or `hidden`.
    """
    folded = name.casefold()
    for kind, names in _NAMES.items():
        if folded in names:
            return kind
    if name.startswith("._"):
        return _RESOURCE_FORKS
    ending = next((kind for ending, kind in _ENDINGS.items() if folded.endswith(ending)), None)
    return ending or (_HIDDEN if name.startswith(".") else None)


def is_junk(name: str) -> bool:
    """Whether a file or folder is left out by its name (`junk_kind`)."""
    return junk_kind(name) is not None


def path_junk_kind(path: str) -> str | None:
    """Kind of a file that is left out by its name or that of a folder that it lies in: the topmost one decides."""
    return next(filter(None, map(junk_kind, path.split("/"))), None)
