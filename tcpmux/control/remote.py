"""An instance that is asked over HTTP or HTTPS, for both clients: where it is, and what went wrong.

Loaded only where a URL is named. The token goes to that host alone: a redirect is an error. Of TLS
the certificate and the name in it are checked, by the host's certification authorities or those in
the file that $SSL_CERT_FILE names.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import warnings
from ipaddress import ip_address
from urllib.parse import urlsplit

from tcpmux.errors import UsageError, printable
from tcpmux.token_file import read_token

SCHEMES = {"http": 80, "https": 443}
TOKEN_VARIABLE = "TCPMUX_TOKEN_FILE"  # noqa: S105


AUTHORITIES = "SSL_CERT_FILE"


class NotEncrypted(UserWarning):
    """A token or an answer crosses a network where others may read it."""


class Remote:
    """url: scheme, host, perhaps a port and a path that goes before those of the API. token: what
    admin.token_file or admin.read_only_token_file holds; None = there is none. Raises
    UsageError."""

    def __init__(self, url: str, token: str | None = None) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{url!r:.200} is not a URL: {error}") from None
        if parts.username is not None or parts.password is not None:
            # Not quoted: it would be in a log.
            raise UsageError(
                "expected a URL without a user or a password: a token has its own place"
            )
        if parts.scheme not in SCHEMES or not parts.hostname or parts.query or parts.fragment:
            raise UsageError(f"expected a URL such as https://mux.example:9901, got {url!r:.200}")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise UsageError(f"expected a URL in ASCII and without blanks, got {url!r:.200}")
        self.url = url
        self.host = parts.hostname
        self.port = port or SCHEMES[parts.scheme]
        self.authority = parts.netloc
        self.base = parts.path.rstrip("/")
        self.token = _checked_token(token)
        self._tls = _tls() if parts.scheme == "https" else None

    def exposure(self) -> str:
        """What others on the way could do, in one line; "" = nothing."""
        if self._tls is not None or _is_loopback(self.host):
            return ""
        return (
            f"{self.url} is not encrypted: others on the way can read what is sent, the token as "
            "well, and change it: use https, or a tunnel to a loopback address"
        )

    def warn_if_exposed(self, depth: int) -> None:
        """depth: as stacklevel of warnings.warn()."""
        exposure = self.exposure()
        if exposure:
            warnings.warn(exposure, NotEncrypted, stacklevel=depth + 1)

    def connect(self, timeout: float) -> socket.socket:
        """timeout: s for each step. Raises OSError."""
        sock = socket.create_connection((self.host, self.port), timeout)
        if self._tls is None:
            return sock
        try:
            return self._tls.wrap_socket(sock, server_hostname=self.host)
        except BaseException:
            sock.close()
            raise

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises OSError."""
        name = self.host if self._tls is not None else None
        return await asyncio.open_connection(
            self.host, self.port, ssl=self._tls, server_hostname=name
        )

    def reason(self, error: OSError) -> str:
        """In one line, why it could not be reached."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {printable(self.host)} is not trusted: {error.verify_message} "
                "(SSL_CERT_FILE can name the file of a certification authority of your own)"
            )
        if isinstance(error, ssl.SSLError):
            why = (error.reason or str(error)).replace("_", " ").lower()
            plain = "; it may speak http, not https" if "version number" in why else ""
            return f"TLS failed: {why}{plain}"
        return error.strerror or str(error) or type(error).__name__


def _tls() -> ssl.SSLContext:
    """Raises UsageError: the file of authorities that is named is none, which OpenSSL would pass
    over, and then trust nobody."""
    context = ssl.create_default_context()
    path = os.environ.get(AUTHORITIES)
    if path:
        try:
            context.load_verify_locations(path)
        except ssl.SSLError:
            raise UsageError(f"{AUTHORITIES}: {printable(path)} has no certificate in it") from None
        except OSError as error:
            raise UsageError(f"{AUTHORITIES}: {printable(path)}: {error.strerror}") from None
    return context


def from_environment(url: str) -> Remote:
    """With the token of the file that $TCPMUX_TOKEN_FILE names, if it names one. Raises
    TcpmuxError."""
    path = os.environ.get(TOKEN_VARIABLE)
    return Remote(url, token_in(path) if path else None)


def token_in(path: str) -> str:
    """Raises TcpmuxError if others may know it."""
    return read_token("token file", path, [os.getegid(), *os.getgroups()]).decode()


def _checked_token(token: str | None) -> str | None:
    if token is None:
        return None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("the token is not one word of ASCII text")  # and not quoted
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
