"""The schema of `fleet`. Private to the package."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from tcpmux.config.address import parse_endpoint
from tcpmux.config.fleet import PREFIX, Etcd, Fleet
from tcpmux.config.instance_schema import absolute_path
from tcpmux.config.problems import describe
from tcpmux.config.values import Name, Strict

MAX_MEMBERS = 16
_PREFIX = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._-]{0,62}){1,4}", re.ASCII)
_USER = re.compile(r"[!-~]{1,128}", re.ASCII)


def _member(value: Any) -> str:
    """`http://10.0.0.1:2379`, without anything behind it."""
    if not isinstance(value, str):
        raise ValueError(f"expected http(s)://HOST:PORT, got {describe(value)}")
    try:
        found = urlsplit(value)
        port = found.port
    except ValueError:
        raise ValueError(f"expected http(s)://HOST:PORT, got {describe(value)}") from None
    host = found.hostname or ""
    whole = f"{found.scheme}://{found.netloc}"
    if (
        found.scheme not in ("http", "https")
        or not host
        or port is None
        or "@" in found.netloc
        or value.rstrip("/") != whole
    ):
        raise ValueError(f"expected http(s)://HOST:PORT, got {describe(value)}")
    parse_endpoint(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return whole


def _prefix(value: Any) -> str:
    if not isinstance(value, str) or not _PREFIX.fullmatch(value):
        raise ValueError(f"expected a prefix of keys such as {PREFIX}, got {describe(value)}")
    return value


def _user(value: Any) -> str:
    if not isinstance(value, str) or not _USER.fullmatch(value):
        raise ValueError(f"expected the name of a user of etcd, got {describe(value)}")
    return value


def _is_loopback(member: str) -> bool:
    host = urlsplit(member).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


Path = Annotated[
    str, BeforeValidator(absolute_path), WithJsonSchema({"type": "string", "pattern": "^/"})
]


class EtcdModel(Strict):
    endpoints: list[
        Annotated[
            str,
            BeforeValidator(_member),
            WithJsonSchema({"type": "string", "pattern": "^https?://[^/]+$"}),
        ]
    ] = Field(
        min_length=1,
        max_length=MAX_MEMBERS,
        description="Members of etcd, http(s)://HOST:PORT each. When one fails, the next is asked.",
    )
    ca: Path | None = Field(
        default=None,
        description="A file with the certificates that etcd's are verified by; default: those that "
        "the host trusts.",
    )
    certificate: Path | None = Field(
        default=None, description="A file with the certificate by which etcd knows this host."
    )
    key: Path | None = Field(default=None, description="A file with the key of `certificate`.")
    user: Annotated[
        str | None,
        BeforeValidator(_user),
        WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 128}),
    ] = Field(default=None, description="A user of etcd; needs a password_file.")
    password_file: Path | None = Field(
        default=None,
        description="A file with one line, the password of `user`. Nobody but root and the user "
        "that starts tcpmux may read it.",
    )
    prefix: Annotated[
        str,
        BeforeValidator(_prefix),
        WithJsonSchema({"type": "string", "pattern": f"^{_PREFIX.pattern}$"}),
    ] = Field(default=PREFIX, description="What the keys of all fleets begin with.")

    @model_validator(mode="after")
    def _fits(self) -> EtcdModel:
        plain = [member for member in self.endpoints if member.startswith("http:")]
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file belong together")
        if plain and (self.ca or self.certificate):
            raise ValueError(f"ca and certificate are for https, and {plain[0]} is not")
        if self.user and any(not _is_loopback(member) for member in plain):
            raise ValueError("expected https for all endpoints: a password would go in the clear")
        if len(set(self.endpoints)) < len(self.endpoints):
            raise ValueError("expected each endpoint once")
        return self

    def made(self) -> Etcd:
        return Etcd(
            tuple(self.endpoints),
            self.ca or "",
            self.certificate or "",
            self.key or "",
            self.user or "",
            self.password_file or "",
            self.prefix,
        )


class FleetModel(Strict):
    name: Name = Field(description="Of the fleet. Hosts with the same one have the same routes.")
    host: Name | None = Field(
        default=None, description="The name of this host in it; default: the host's own name."
    )
    etcd: EtcdModel = Field(description="Where the fleet's routes and weights are kept.")

    def made(self) -> Fleet:
        return Fleet(self.name, self.etcd.made(), self.host or "")
