"""Translate errors of store clients to OSErrors that name the address."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLIENT_MODULES = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "requests", "urllib3")
_CREDENTIALS = ("Credential", "Token", "SSO", "Profile")
_REFUSED_CREDENTIALS = frozenset(
    {"AccountProblem", "ExpiredToken", "InvalidAccessKeyId", "InvalidSecurity", "InvalidToken", "NotSignedUp"}
    | {"RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired"}
)
"""Error codes of S3 that are about the credentials, not about the requested object."""


class CredentialsError(PermissionError):
    """A store rejects the credentials themselves, whatever the request."""


class AddressError(OSError):
    """The store rejects the address as malformed."""


_KINDS: tuple[type[OSError], ...] = (
    *(CredentialsError, AddressError, FileNotFoundError, FileExistsError, PermissionError),
    *(IsADirectoryError, NotADirectoryError, TimeoutError),
)
"""Types that are kept; any other error becomes a plain OSError."""


def error_code(error: OSError) -> str | None:
    """The S3 error code behind an error that s3fs has translated; None where there is none."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code")


@contextmanager
def translate_errors(address: str | Path) -> Iterator[None]:
    """Raise errors of any store client inside the block as an OSError that names the address."""
    url = os.fspath(address)
    try:
        yield
    except OSError as error:
        error_type = _error_type(error)
        if "://" not in url or (url in str(error) and isinstance(error, error_type)):
            raise
        raise error_type(f"{url}: {_one_line(error)}") from error
    except Exception as error:
        kind, module = type(error), type(error).__module__.partition(".")[0]
        if kind is ValueError and str(error).startswith("Bad Request:"):  # gcsfs reports HTTP 400
            raise AddressError(f"{url}: {_one_line(error)}") from error
        if module not in _CLIENT_MODULES:
            raise
        if any(word in kind.__name__ for word in _CREDENTIALS):
            raise CredentialsError(
                f"{url}: no credentials for this store ({_one_line(error)}): set AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY or AWS_PROFILE for s3://, GOOGLE_APPLICATION_CREDENTIALS for gs://"
            ) from error
        if kind.__name__ == "ParamValidationError":  # botocore's, before it sends a request
            raise AddressError(f"{url}: {_one_line(error)}") from error
        raise OSError(f"{url}: {_one_line(error)}") from error


def _error_type(error: OSError) -> type[OSError]:
    """The type under which an error is raised again."""
    if error_code(error) in _REFUSED_CREDENTIALS:
        return CredentialsError
    if str(error).startswith("Forbidden:"):  # gcsfs reports HTTP 403
        return PermissionError
    return next((kind for kind in _KINDS if isinstance(error, kind)), OSError)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
