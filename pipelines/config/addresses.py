"""Check addresses of files: local paths and stores, without commands, chains or credentials."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, get_args, get_type_hints

from ecor.config.address_types import STORES, AddressKind
from ecor.config.checks import require
from ecor.storage.web.allowed_hosts import is_web_address
from pipelines.config.secrets import mask_secrets

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CHAIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::")  # later in an address, `::` is two colons (`ecor.storage.filesystem`)
_COMMAND = re.compile(r"\s*(?:pipe:|\|)", re.I)


class CheckedSettings:
    """Base of settings that checks every address field when the settings are made."""

    __slots__ = ()

    def __post_init__(self) -> None:
        check_addresses(self)


def check_addresses(settings: Any, *, prefix: str = "") -> None:
    """Check every address field of a dataclass and of the dataclasses in it.

    Args:
        settings: a dataclass.
        prefix: put before the field names in errors.

    Raises:
        ValueError: as `check_address`, and for a store's address where a local path is needed.
    """
    kind: type = type(settings)
    kinds = address_settings(kind)
    for each in fields(settings):
        name, value = f"{prefix}{each.name}", getattr(settings, each.name)
        if each.name in kinds:
            for address in (value,) if isinstance(value, str) else value or ():
                _check_kind(address, kind=kinds[each.name], name=name)
        elif is_dataclass(value) and not isinstance(value, CheckedSettings):
            check_addresses(value, prefix=f"{name}.")


@lru_cache(maxsize=256)
def address_settings(kind: type) -> Mapping[str, AddressKind]:
    """Map the name of each address field of a dataclass to its kind; tuples of addresses and optional ones count."""
    hints = get_type_hints(kind, include_extras=True)
    kinds = {each.name: _address_kind(hints[each.name]) for each in fields(kind)}
    return {name: found for name, found in kinds.items() if found is not None}


def _address_kind(hint: Any) -> AddressKind | None:
    if isinstance(hint, AddressKind):
        return hint
    return next(filter(None, map(_address_kind, get_args(hint))), None)


def _check_kind(address: str, *, kind: AddressKind, name: str) -> None:
    if kind.may_be_registered and address.startswith("models:"):
        return  # a registered model: `pipelines.tracking.model_registry.resolve_model` checks it
    check_address(address, name=name)
    is_here = not kind.only_local or "://" not in address
    require(is_here, f"{name} of this command must be on a disk of this machine, got {address}")


def check_address(address: str, *, name: str) -> None:
    """Check that a text is a local path or the address of a store.

    A scheme that the program has registered with fsspec is accepted too.

    Args:
        address: the text to check.
        name: name of the setting, for the error.

    Raises:
        ValueError: for a command to run, a chained address, an unknown scheme, or an address that holds credentials.
            Credentials come from the environment, because addresses are written into records.
    """
    if _COMMAND.match(address):
        raise ValueError(
            f"{name} must be a path or the address of a store, got a command to run: {mask_secrets(address)}"
        )
    if _CHAIN.match(address) and "://" in address:
        raise ValueError(
            f"{name}: chained addresses are not supported, got {mask_secrets(address)}: name the file itself"
        )
    scheme = _SCHEME.match(address)
    if scheme is None:
        return
    if scheme[1].lower() not in STORES and not _is_registered(scheme[1]):
        raise ValueError(
            f"{name}: {scheme[1]}:// is not read, got {mask_secrets(address)}: name a local path or an address that "
            f"begins with {', '.join(f'{each}://' for each in STORES)}"
        )
    if mask_secrets(address) != address:
        raise ValueError(
            f"{name} holds credentials: {mask_secrets(address)}. Leave them out: they are read from the environment or "
            f"the machine's role"
        )


def check_web_image(address: str, *, where: str, allow_http: Sequence[str]) -> None:
    """Check an image's address that a table gives, if it is one of the web.

    Args:
        address: path or address of the image.
        where: place in the table, for the error.
        allow_http: hosts that are read; whether this one is among them, its image tells.

    Raises:
        ValueError: when no host is allowed, or the address holds credentials: it is written into labels.
    """
    if not is_web_address(address):
        return
    shown = mask_secrets(address)
    require(
        bool(allow_http),
        f"{where}: {shown} is on the web, and images are read from there only with --allow-http and the names of the "
        "hosts, as --allow-http images.example.org (`ecor shard` and `ecor score`)",
    )
    require(
        shown == address,
        f"{where}: the address {shown} holds credentials or a signature, which would be written into labels: leave "
        "them out, or copy these images to a folder or a store",
    )


def _is_registered(scheme: str) -> bool:
    from fsspec.registry import known_implementations, registry

    return scheme in registry and scheme not in known_implementations
