"""The model whose tokens tuning starts from (`--init-from`): its place among a run's parents, and on each worker."""

from collections.abc import Mapping
from dataclasses import replace

from ecor.config.checks import require
from ecor.storage.model_records import read_checkpoint
from pipelines.config.infrastructure import TrackingConfig
from pipelines.config.training import TrainConfig
from pipelines.tracking.model_loading import model_folder
from pipelines.tracking.model_versions import INITIAL_MODEL, ModelVersion


def initial_parents(initial: ModelVersion, *, tracking: TrackingConfig) -> dict[str, str]:
    """Digests by name: of the model, and of the splits that its tokens were learned and chosen on.

    The splits are `initial_train_manifest` and alike. So an audit knows that the new model has seen them too.
    """
    from pipelines.tracking import model_registry  # MLflow, which workers do without

    lineage = model_registry.read_version_lineage(initial, tracking=tracking)
    splits = {f"initial_{name}": digest for name, digest in lineage.items() if name.endswith("_manifest")}
    return {INITIAL_MODEL: initial.digest, **splits}


def with_local_tokens(config: TrainConfig, *, parents: Mapping[str, str], tracking: TrackingConfig) -> TrainConfig:
    """The settings with a folder of this machine for `init_from`; the model is downloaded once per machine.

    Raises:
        ValueError: when that model is another one than the run began with, or is gone.
        OSError: when the registry fails.
    """
    if config.init_from is None:
        return config
    folder = model_folder(config.init_from, tracking=tracking)
    found = read_checkpoint(folder).model_digest
    require(
        found == parents[INITIAL_MODEL],
        f"{config.init_from} is model {found[:12]}… by now, and this run began with {parents[INITIAL_MODEL][:12]}…: "
        "put it back, or start over with --fresh",
    )
    return replace(config, init_from=folder)
