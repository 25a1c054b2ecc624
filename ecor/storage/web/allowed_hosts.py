"""Hosts on the web from which images may be read, and the network addresses that each may have."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

IPAddress = IPv4Address | IPv6Address
_SCHEMES = ("http://", "https://")
_USUAL_PORTS = (80, 443)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_NAME = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)*{_LABEL}")
_ENTRY = re.compile(
    r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\[\]:=/@]+)(?::(?P<port>\d{1,5}))?(?:=(?P<network>[0-9a-fA-F:./]+))?"
)
_GLOBAL_IPV6, _NAT64 = IPv6Network("2000::/3"), IPv6Network("64:ff9b::/96")
_FORMS = "images.example.org, *.cdn.example.org, 10.0.3.7:8080 or, for a name within a network, images.lan=10.0.3.0/24"


def is_web_address(address: str) -> bool:
    """Whether an address is one of HTTP or HTTPS."""
    return address.lower().startswith(_SCHEMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedHost:
    """A host, or all hosts below a domain."""

    name: str
    """In small letters, an IPv6 address without brackets; `.example.org` stands for all hosts below."""
    port: int | None
    """None: the usual ports, 80 and 443."""
    network: IPv4Network | IPv6Network | None
    """Where its addresses must lie; None: they must be public."""

    def is_host(self, name: str, *, port: int) -> bool:
        """Whether it stands for this host."""
        is_named = name.endswith(self.name) if self.name.startswith(".") else name == self.name
        return is_named and (port in _USUAL_PORTS if self.port is None else port == self.port)

    def may_have(self, address: str) -> bool:
        """Whether one of the network addresses of this host may be asked for images."""
        found = ip_address(address)
        if self.network is None:
            return _is_public(found)
        behind = found.ipv4_mapped if isinstance(found, IPv6Address) else None
        return found in self.network or (behind is not None and behind in self.network)


@cache
def parse_host(text: str) -> AllowedHost:
    """Read an entry of the list of allowed hosts.

    Args:
        text: `host`, `host:port`, `*.domain`, `address` or `host=network`.

    Raises:
        ValueError: for any other text.
    """
    entry = _ENTRY.fullmatch(text.strip())
    if entry is None:
        raise ValueError(f"allow_http must be names of hosts, got {text!r}: write {_FORMS}")
    name = entry["host"].strip("[]").lower()
    literal, network = _literal(name), entry["network"]
    if literal is None and (not _NAME.fullmatch(name) or name.rpartition(".")[2].isdigit()):
        raise ValueError(f"allow_http: {entry['host']!r} is no name of a host: write {_FORMS} (in ASCII, as xn--…)")
    try:
        within = ip_network(network or str(literal)) if network or literal else None
    except ValueError as error:
        raise ValueError(f"allow_http: {text!r}: {error}: write {_FORMS}") from error
    port = int(entry["port"]) if entry["port"] else None
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"allow_http: {text!r}: a port is a number from 1 to 65535")
    return AllowedHost(name=name.removeprefix("*"), port=port, network=within)


def check_hosts(texts: Iterable[str]) -> None:
    """Check a list of allowed hosts. Raises ValueError as `parse_host`."""
    for text in texts:
        parse_host(text)


def find_hosts(name: str, *, port: int, allowed: Iterable[str]) -> list[AllowedHost]:
    """The entries that stand for a host."""
    return [entry for entry in map(parse_host, allowed) if entry.is_host(name, port=port)]


def _literal(name: str) -> IPAddress | None:
    try:
        return ip_address(name)
    except ValueError:
        return None


def _is_public(address: IPAddress) -> bool:
    """Whether an address, and the IPv4 address that it leads to, is of the public internet."""
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    if address in _NAT64:
        return _is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    behind = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    if behind is not None:
        return _is_public(behind)
    return address in _GLOBAL_IPV6 and address.is_global
