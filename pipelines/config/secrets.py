"""Hide passwords, tokens and keys in addresses and in text that is logged."""

import os
import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit, urlunsplit

MASK = "***"


_USER_PART = re.compile(r"(?<=://)[^\s/?#'\"<>]*@")


_QUERY_NAMES = (
    r"[\w.-]*(?:secret|token|password|passwd|signature|credential|api[_-]?key|access[_-]?key(?:id)?)|key|sig|pwd"
)


_QUERY = re.compile(rf"(?<=[?&;])({_QUERY_NAMES})=[^\s&;#'\"<>]*", re.I)


_SECRET_VARIABLE = re.compile(r"(?:TOKEN|PASSWORD|SECRET|SECRET_KEY|SECRET_ACCESS_KEY)$")


_MIN_SECRET_LENGTH = 6


def mask_secrets(text: str, *, secrets: tuple[str, ...] = ()) -> str:
    """Replace users, passwords, keys and signatures in all addresses of a text by `***`.

    Args:
        text: any text, for example an error message.
        secrets: values to replace too, wherever they occur.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _QUERY.sub(rf"\1={MASK}", _USER_PART.sub(f"{MASK}@", text))


def environment_secrets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Values of variables whose names end in PASSWORD, TOKEN or SECRET; values under 6 letters are skipped."""
    found = {value for name, value in environment.items() if _SECRET_VARIABLE.search(name.upper())}
    return tuple(sorted(value for value in found if len(value) >= _MIN_SECRET_LENGTH))


def split_credentials(uri: str) -> tuple[str, str | None, str | None]:
    """Split an http address into the address without credentials, the user and the password (both unquoted).

    Any other address is returned as it is, with None and None.
    """
    parts = urlsplit(uri) if uri.startswith(("http://", "https://")) else None
    if parts is None or "@" not in parts.netloc:
        return uri, None, None
    user, _, place = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    return urlunsplit(parts._replace(netloc=place)), unquote(name), unquote(password)


def own_environment_secrets() -> tuple[str, ...]:
    """Secrets in the environment of this process (`environment_secrets`)."""
    return environment_secrets(os.environ)
