"""Recognise inputs of `ecor shard` that are no folder per category: tables, archives, and folders of these."""

from pathlib import PurePosixPath

from ecor.data.shard_manifest import VOCABULARY_NAME
from ecor.data.sources.discovery import SplitFile, find_archives, find_tables
from ecor.data.sources.image_tables import IMAGE_TABLE_SUFFIXES
from ecor.data.sources.sidecars import has_sidecars
from ecor.storage import filesystem
from ecor.storage.junk_names import path_junk_kind
from ecor.storage.members.member_address import MARK, is_archive
from pipelines.config.stages import Layout, ShardConfig
from pipelines.runtime.retries import retry_in_store
from pipelines.sharding.sources.source_places import Place, Source


def find_listed_source(config: ShardConfig, *, root: str) -> Source | None:
    """The source of an input whose files are not sorted into folders of categories; None for one whose are.

    Args:
        config: the settings.
        root: absolute address of the input, which exists; of an archive's members `….tar!`.

    Raises:
        ValueError: when `layout` names another kind of input, or a file is damaged.
    """
    layout = config.layout
    if layout not in ("auto", "table", "webdataset"):
        return None
    archive = root.removesuffix(MARK)
    if archive != root:
        if layout == "webdataset" or (layout == "auto" and _is_web_dataset(root)):
            return _source_of(*_parted(archive), layout="webdataset", config=config)
    elif filesystem.is_file(root):
        if not root.lower().endswith(IMAGE_TABLE_SUFFIXES) or layout == "webdataset":
            raise ValueError(
                f"a table is a {', '.join(IMAGE_TABLE_SUFFIXES)} file, got {config.input}: name one, or a folder"
            )
        return _source_of(*_parted(root), layout="table", config=config)
    if layout != "webdataset" and (tables := retry_in_store(lambda: find_tables(root), place=root)):
        return _source_of(root, tables, layout="table", config=config)
    if layout != "table" and (archives := retry_in_store(lambda: find_archives(root), place=root)):
        return _source_of(root, archives, layout="webdataset", config=config)
    if layout != "auto":
        kind = "table, or a folder of tables" if layout == "table" else "tar or zip, or a folder of these"
        raise ValueError(f"{config.input} is no {kind}: name one, or leave out --layout {layout}")
    return None


def _parted(path: str) -> tuple[str, tuple[SplitFile, ...]]:
    folder, _, name = path.rpartition("/")
    return folder, (SplitFile(path=name, split=None),)


def _is_web_dataset(root: str) -> bool:
    """Whether files of an archive have labels beside them, or do not lie in folders."""
    paths = retry_in_store(lambda: filesystem.files_below(root), place=root)
    seen = [path for path in paths if path_junk_kind(path) is None]
    return has_sidecars(seen) or not any("/" in path for path in seen)


def _source_of(root: str, files: tuple[SplitFile, ...], *, layout: Layout, config: ShardConfig) -> Source:
    vocabulary = f"{root}/{VOCABULARY_NAME}"
    return Source(
        root=root,
        layout=layout,
        places=tuple(
            Place(root=root, layout=layout, path=file.path, split=file.split, allow_http=config.allow_http)
            for file in files
        ),
        vocabulary=vocabulary if filesystem.exists(vocabulary) else None,
    )


def archive_root(address: str) -> str:
    """The address of an archive's members where the input is one; any other address as it is."""
    name = PurePosixPath(address).name
    return f"{address}{MARK}" if is_archive(name) and filesystem.is_file(address) else address
