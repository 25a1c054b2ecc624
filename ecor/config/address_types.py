"""Types of settings that are addresses: paths, stores, models of a registry."""

from dataclasses import dataclass
from typing import Annotated

STORES = ("file", "local", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""Schemes of addresses that settings, records and tables may name."""
HUBS = ("hf-hub:", "local-dir:")
"""How names of backbones begin that lead to a folder with weights and settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressKind:
    """What a setting of an address may hold besides a path."""

    may_be_registered: bool = False
    """A model of MLflow's registry (`models:/…`) too."""
    only_local: bool = False
    """No store: only disks of this machine."""


StoreAddress = Annotated[str, AddressKind()]
"""A setting that is a path or the address of a store: `pipelines.config.addresses` checks all that have this type."""
ModelAddress = Annotated[str, AddressKind(may_be_registered=True)]
"""A `StoreAddress`, or a model of the registry."""
LocalPath = Annotated[str, AddressKind(only_local=True)]
"""A path on a disk of this machine."""
