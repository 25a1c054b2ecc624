"""Read files over HTTP from allowed hosts only, within limits of bytes, time and redirects.

A name is resolved once, its addresses are checked, and the connection goes to one of these. Neither cookies nor
credentials nor proxies of this machine are used.
"""

import asyncio
import atexit
import os
import socket
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ecor.storage.retries import RetryLaterError
from ecor.storage.web.allowed_hosts import find_hosts
from ecor.storage.web.silent_hosts import SilentHostError, SilentHosts

_REDIRECTS = (301, 302, 303, 307, 308)
_DONE, _MISSING = (200, 203), (404, 410)
_BUSY = (408, 425, 429)
_AT_ONCE = 32
"""Files that a process reads at a time."""
_CLOSING_S = 2.0


class WebError(OSError):
    """An address that is not allowed or cannot be read, and could not on another attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebLimits:
    """Limits of one file."""

    num_bytes: int = 2**28
    """After any compression by the server (our choice): the RGB pixels of the largest image that is decoded."""
    seconds: float = 60.0
    """From the first look-up to the last byte, redirects included."""
    connect_s: float = 10.0
    silence_s: float = 20.0
    """Without a byte from the server."""
    num_redirects: int = 5


class WebReader:
    """Reads files from allowed hosts with one pool of connections; safe for several threads."""

    def __init__(self, allowed: tuple[str, ...], *, limits: WebLimits | None = None) -> None:
        """Start the thread that reads.

        Args:
            allowed: entries of `ecor.storage.web.allowed_hosts.parse_host`.
            limits: of each file.

        Raises:
            ValueError: for an entry of another form.
        """
        self.allowed, self.limits = allowed, limits or WebLimits()
        self._slots = threading.BoundedSemaphore(_AT_ONCE)
        self._silent = SilentHosts()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="web-reader").start()
        self._session = self._run(self._open_session())

    def read(self, url: str) -> bytes:
        """All bytes of a file.

        Raises:
            FileNotFoundError: when the server says that there is none.
            WebError: when the host is not allowed or has not answered for a while, the server refuses, or a limit is
                exceeded.
            RetryLaterError: when the server is busy, or the connection fails.
        """
        with self._slots:
            return self._run(self._read(url))

    def close(self) -> None:
        """Close all connections."""
        with suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._session.close(), self._loop).result(_CLOSING_S)
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open_session(self) -> aiohttp.ClientSession:
        limits = self.limits
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=_CheckedResolver(self.allowed), limit=0, ttl_dns_cache=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s, sock_read=limits.silence_s),
            headers={"User-Agent": "ecor", "Accept-Encoding": "identity"},
            trust_env=False,
        )

    async def _read(self, url: str) -> bytes:
        async with _translate_errors(url, seconds=self.limits.seconds), asyncio.timeout(self.limits.seconds):
            place = URL(url)
            for _ in range(self.limits.num_redirects + 1):
                _check_place(place, allowed=self.allowed)
                with self._silent.asking(_entry(place.raw_host or "", port=place.port or 0)):
                    async with self._session.get(place, allow_redirects=False) as response:
                        if response.status not in _REDIRECTS:
                            return await self._body(response)
                        place = place.join(URL(response.headers.get("Location", "")))
            raise WebError(f"more than {self.limits.num_redirects} redirects")

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        _check_status(response)
        most, pieces, num_bytes = self.limits.num_bytes, list[bytes](), response.content_length or 0
        too_many = WebError(f"more than {most} bytes")
        if num_bytes > most:
            raise too_many
        num_bytes = 0
        async for piece in response.content.iter_any():
            num_bytes += len(piece)
            if num_bytes > most:
                raise too_many
            pieces.append(piece)
        return b"".join(pieces)


class _CheckedResolver(AbstractResolver):
    """Finds the addresses of a host; none if one of them is not allowed."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await aiohttp.ThreadedResolver().resolve(host, port, family)
        for each in found:
            _check_address(host, each["host"], port=port, allowed=self._allowed)
        return found

    async def close(self) -> None:
        """Nothing is open."""


def _check_place(place: URL, *, allowed: tuple[str, ...]) -> None:
    """Check scheme and host of an address. The addresses of a name are checked when it is resolved."""
    host, port = place.raw_host, place.port
    if place.scheme not in ("http", "https") or not host or not port:
        raise WebError(f"{place.scheme or 'no scheme'}:// is not read")
    if place.raw_user is not None or place.raw_password is not None:
        raise WebError("the address holds credentials: leave them out")
    if not find_hosts(host, port=port, allowed=allowed):
        entry = _entry(host, port=port)
        raise WebError(f"{entry} is not an allowed host: name it with --allow-http {entry}")
    if ":" in host or host.replace(".", "").isdigit():
        _check_address(host, host, port=port, allowed=allowed)


def _check_address(host: str, address: str, *, port: int, allowed: tuple[str, ...]) -> None:
    if not any(entry.may_have(address) for entry in find_hosts(host, port=port, allowed=allowed)):
        raise WebError(
            f"{host} has the address {address}, which is not public: if images are to be read from there, name both "
            f"with --allow-http {_entry(host, port=port)}={address}"
        )


def _entry(host: str, *, port: int) -> str:
    """The entry of the list that allows a host."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port in (80, 443) else f"{shown}:{port}"


def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    said = f"HTTP status {status} {response.reason or ''}".rstrip()
    if status in _MISSING:
        raise FileNotFoundError(said)
    if status in _BUSY or status >= 500:
        raise RetryLaterError(said, after_s=_pause_s(response.headers.get("Retry-After")))
    if status not in _DONE:
        raise WebError(said)


def _pause_s(text: str | None) -> float:
    """Seconds of a header `Retry-After`, which holds seconds or a date; 0 for none."""
    if text is None or text.strip().isdigit():
        return float(text or 0)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


@asynccontextmanager
async def _translate_errors(url: str, *, seconds: float) -> AsyncIterator[None]:
    """Raise any error as one of those of `WebReader.read`, naming the address."""
    try:
        yield
    except aiohttp.ClientConnectorDNSError as error:
        if isinstance(error.os_error, WebError):
            raise WebError(f"{url}: {error.os_error}") from error
        raise RetryLaterError(f"{url}: {error.os_error}") from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise WebError(f"{url}: {_one_line(error)}") from error
    except SilentHostError as error:
        raise WebError(f"{url}: {error}") from error
    except ValueError as error:  # its text may be that of a signed address, after a redirect
        raise WebError(f"{url}: it is no valid address, or leads to one that is not") from error
    except aiohttp.ClientError as error:
        raise RetryLaterError(f"{url}: {_one_line(error)}") from error
    except TimeoutError as error:
        raise WebError(f"{url}: not read within {seconds:g} s") from error
    except RetryLaterError as error:
        raise RetryLaterError(f"{url}: {error}", after_s=error.after_s) from error
    except OSError as error:
        raise (type(error) if isinstance(error, WebError | FileNotFoundError) else RetryLaterError)(
            f"{url}: {_one_line(error)}"
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


_lock = threading.Lock()


def web_reader(allowed: tuple[str, ...]) -> WebReader:
    """The reader of this process for these hosts; its connections stay open for the next file."""
    with _lock:
        return _open_reader(allowed, os.getpid())


@lru_cache(maxsize=8)
def _open_reader(allowed: tuple[str, ...], process_id: int) -> WebReader:
    """A forked process has no thread of its parent's, so it needs a reader of its own."""
    reader = WebReader(allowed)
    atexit.register(reader.close)
    return reader
