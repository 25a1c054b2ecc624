"""The folder of an export: it appears as a whole, and its record says what it is of."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecor.config.checks import require
from ecor.data.predictions.manifest import PredictionSet
from ecor.storage import filesystem
from ecor.storage.atomic_write import write_folder
from ecor.storage.digests import json_digest
from pipelines.config.exchange import ExportConfig, ImageMode
from pipelines.config.identity import describe_changes, output_settings
from pipelines.exchange.label_rows import audit_digest
from pipelines.review.decision_set import read_decision_set
from pipelines.runtime.balance import Balance

EXPORT_NAME = "export.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFolder:
    """A finished export."""

    folder: str
    balance: Balance


def export_settings(config: ExportConfig, predictions: PredictionSet, *, mode: ImageMode) -> dict[str, Any]:
    """What the bytes of an export follow from."""
    reviewed = None
    if config.reviewed is not None:
        logs = filesystem.list_folder(read_decision_set(config.reviewed).log_folder)
        reviewed = json_digest([(each.name, each.num_bytes) for each in logs])
    return {
        **output_settings(config),
        "images": mode,
        "labels_digest": predictions.digest,
        "audit_digest": None if config.audit is None else audit_digest(config.audit, predictions),
        "reviewed_digest": reviewed,
    }


def find_finished(config: ExportConfig, settings: Mapping[str, Any]) -> ExportedFolder | None:
    """The finished export of these settings, or None; ValueError where something else is in the folder."""
    path = filesystem.join(config.output, EXPORT_NAME)
    if not filesystem.is_file(path):
        require(
            not filesystem.names_in(config.output) and not filesystem.is_file(config.output),
            f"{config.output} exists and is no export: name another --output",
        )
        return None
    try:
        record = json.loads(filesystem.read(path))
        found = {name: record.get(name) for name in settings}
        balance = Balance.from_record(record["balance"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the record of an export ({error}): name another --output") from error
    changes = describe_changes(found, settings)
    if not changes:
        return ExportedFolder(folder=config.output, balance=balance)
    require(config.fresh, f"{config.output} holds another export: {changes}. Name another --output, or add --fresh")
    return None


@contextmanager
def unfinished_folder(output: str) -> Iterator[Path]:
    """Yield a local folder that becomes `output` when the block ends without an error."""
    if filesystem.is_local(output):
        with write_folder(filesystem.local_path(output)) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "export"
        folder.mkdir()
        yield folder
        filesystem.replace_folder(folder, output, last=EXPORT_NAME)
