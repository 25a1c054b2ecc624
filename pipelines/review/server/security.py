"""Who may talk to the page's server: one who knows the printed address, from this page alone.

The address holds a random token. Opening it sets a cookie (HttpOnly, SameSite=Strict) with another secret and leads to
the page; the page holds a third one, which every request for data or with a decision sends as a header. No other site
can send that header without a CORS permission, which this server never gives. The names in the Host header are those of
this machine only, so that a foreign name that resolves to it (DNS rebinding) is refused.
"""

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-ecor-review"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY_BYTES = 2**20
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Of every answer that does not set them itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The secrets of one run of the server."""

    host: str
    """Name or address that it is served at."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    """In the printed address."""
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    header: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    """In the page."""
    cookie_name: str = field(default_factory=lambda: f"ecor_review_{secrets.token_hex(4)}")
    """Of this run alone: browsers share cookies among the ports of a host."""

    def is_own_host(self, host: str | None) -> bool:
        """Whether a Host header (`name:port`) names this machine."""
        return _host_name(f"//{host or ''}") in {*_LOOPBACK, self.host.lower()}

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> str | None:
        """Why a request is refused; None: it is not.

        Args:
            method: of HTTP.
            path: of the address.
            headers: names in lower case.
        """
        if not self.is_own_host(headers.get("host")):
            return "this server is not known by that name"
        origin = headers.get("origin")
        if origin is not None and _net_location(origin) != headers.get("host"):
            return "requests of other pages are refused"
        if path != "/" and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return "requests of other pages are refused"
        if not _is_equal(_cookie(headers.get("cookie", ""), name=self.cookie_name), self.cookie):
            return "open the address that `ecor review` has printed"
        needs_header = method not in ("GET", "HEAD") or path.startswith("/api/")
        if needs_header and not _is_equal(headers.get(HEADER, ""), self.header):
            return f"the header {HEADER} is missing or wrong: load the page again"
        return None


class Guard:
    """Middleware: refuses requests by `Access.refusal`, exchanges the token for the cookie, and adds safe headers."""

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no web sockets here
        request = Request(scope)

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**_HEADERS, "cache-control": "no-store"}.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._answer(request, Headers(scope=scope))
        await (answer or self._app)(scope, receive, send_safely)

    def _answer(self, request: Request, headers: Headers) -> Response | None:
        """The answer to a request that is not the application's; None: it is."""
        access, token = self._access, request.query_params.get("token")
        if request.url.path == "/" and token is not None and access.is_own_host(headers.get("host")):
            if not _is_equal(token, access.token):
                return PlainTextResponse("this is not the token of the server that runs now\n", status_code=403)
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(access.cookie_name, access.cookie, httponly=True, samesite="strict", path="/")
            return answer
        refusal = access.refusal(request.method, request.url.path, dict(headers))
        if refusal is not None:
            return PlainTextResponse(f"{refusal}\n", status_code=403)
        try:
            num_bytes = int(headers.get("content-length", "0"))
        except ValueError:
            num_bytes = MAX_BODY_BYTES + 1
        if num_bytes > MAX_BODY_BYTES or "transfer-encoding" in headers:
            return PlainTextResponse("the request is too large\n", status_code=413)
        return None


def _host_name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _net_location(address: str) -> str | None:
    try:
        return urlsplit(address).netloc
    except ValueError:
        return None


def _cookie(text: str, *, name: str) -> str:
    try:
        found = SimpleCookie(text).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _is_equal(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode(), secret.encode())
