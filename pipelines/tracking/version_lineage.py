"""What a registered version was tuned from, version by version, and what decided about its promotion."""

import re
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient

from pipelines.config.infrastructure import TrackingConfig
from pipelines.tracking.mlflow_client import make_client, silence_mlflow, translate_mlflow_errors
from pipelines.tracking.model_registry import CONTEST_TAG, DIGEST_TAG, PARENT_TAG
from pipelines.tracking.model_versions import INITIAL_MODEL, Ancestor, ModelVersion, VersionLineage

_DECISION = re.compile(r"ecor\.(?P<alias>.+)\.(?P<decision>promoted|forced|refused)")


def trace_lineage(version: ModelVersion, *, tracking: TrackingConfig) -> VersionLineage:
    """Read the lineage of a registered version from the tags of all its ancestors.

    Raises:
        OSError: when the server fails.
    """
    client = make_client(tracking)
    with silence_mlflow(), translate_mlflow_errors(tracking):
        tags: Mapping[str, str] = client.get_model_version(version.name, str(version.version)).tags
        return VersionLineage(
            ancestors=tuple(_ancestors(client, name=version.name, tags=tags)),
            contests=tuple(sorted(value for tag, value in tags.items() if tag.startswith(CONTEST_TAG))),
            promotions=tuple(
                f"{found['alias']}, {found['decision']}: {grounds}"
                for tag, grounds in sorted(tags.items())
                if (found := _DECISION.fullmatch(tag)) is not None
            ),
        )


def _ancestors(client: MlflowClient, *, name: str, tags: Mapping[str, str]) -> list[Ancestor]:
    found: dict[str, Ancestor] = {}
    while (digest := tags.get(PARENT_TAG + INITIAL_MODEL)) and digest not in found:
        same = _versions_with(client, digest=digest)
        # several versions may hold the same model: one of the same name, else any, the newest one
        version = max(same, key=lambda each: (each.name == name, int(each.version)), default=None)
        uri = None if version is None else f"models:/{version.name}/{version.version}"
        found[digest] = Ancestor(digest=digest, uri=uri)
        tags = {} if version is None else version.tags
    return list(found.values())


def _versions_with(client: MlflowClient, *, digest: str) -> list[Any]:
    return list(client.search_model_versions(f"tag.`{DIGEST_TAG}` = '{digest}'"))
