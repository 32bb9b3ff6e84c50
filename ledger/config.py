"""What the server is told when it starts: a table of options, each also an environment variable, checked at once."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import platformdirs
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from twisted.internet.endpoints import serverFromString

from ledger.domain.errors import ConfigurationError, Refused
from ledger.domain.jobs import QUEUES
from ledger.domain.money import DEFAULT_MAX_AMOUNT, MAX_AMOUNT, asset_of
from ledger.domain.payment_options import PAYMENT_OPTIONS
from ledger.domain.secret import Secret

_POOL_LIMIT: Final = 80
_QUEUE_LIMIT: Final = 100
_SECRET_VARIABLE: Final = "LEDGER_JWT_SECRET"
_LEAST_SECRET: Final = 32
_LEAST_RSA: Final = 2048


@dataclass(frozen=True)
class Config:
    """The checked configuration of one server."""

    listen: tuple[str, ...]
    database: str | None
    data_dir: Path
    pool_size: int
    jwt_secret: Secret | None  # None: one is made and kept in the data directory
    rate_limit: tuple[int, int] | None
    currency: str
    max_amount: int
    self_funding: bool
    games_public_key: RSAPublicKey | None
    cors_origins: tuple[str, ...]
    trusted_proxies: tuple[str, ...]
    metrics_listen: tuple[str, ...]
    log_format: str
    reuse_port: bool
    queues: tuple[tuple[str, int], ...]
    payment_limit: Decimal
    daily_limits: tuple[tuple[str, Decimal], ...]
    duplicate_window: int


@dataclass(frozen=True)
class Option:
    """One option: how it is written, what it means, and how its text is read; reading raises `ValueError`."""

    name: str
    field: str
    read: Callable[[str], Any]
    default: str | None
    help: str
    repeats: bool = False
    is_flag: bool = False

    @property
    def variable(self) -> str:
        """The environment variable that stands for the option."""
        return "LEDGER_" + self.name.replace("-", "_").upper()


def _endpoint(text: str) -> str:
    # A reactor is at hand wherever a server is configured, but must not be installed by importing this module.
    from twisted.internet import reactor

    try:
        serverFromString(reactor, text)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ValueError(f"{text!r} is not a Twisted endpoint string ({error})") from error
    return text


def _database(text: str) -> str:
    if not re.match(r"postgres(ql)?://", text):
        raise ValueError("must be a URL such as postgresql://user@host/name")
    return text


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]+", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(text)

    return read


def _secret(text: str) -> Secret:
    if len(text.encode()) < _LEAST_SECRET:
        raise ValueError(f"the secret must have at least {_LEAST_SECRET} bytes")
    return Secret(text)


def _secret_file(text: str) -> Secret:
    try:
        return _secret(Path(text).read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {text}: {getattr(error, 'strerror', None) or 'not text'}") from None


def _public_key(text: str) -> RSAPublicKey:
    try:
        key = load_pem_public_key(Path(text).read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read {text}: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{text} holds no public key in PEM form") from None
    if not isinstance(key, RSAPublicKey) or key.key_size < _LEAST_RSA:
        raise ValueError(f"{text} must hold an RSA key of {_LEAST_RSA} bits or more")
    return key


def _rate(text: str) -> tuple[int, int] | None:
    if text == "0":
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,5})", text)
    if match is None:
        raise ValueError("must be REQUESTS/SECONDS, such as 100/60, or 0")
    return int(match[1]), int(match[2])


def _currency(text: str) -> str:
    try:
        return asset_of(text).code
    except Refused as refused:
        raise ValueError("must be the code of a currency, such as USD") from refused


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError("must be on or off")
    return text == "on"


def _flag(text: str) -> bool:
    if text not in ("on", "off", "1", "0", "true", "false", ""):
        raise ValueError("must be on or off")
    return text in ("on", "1", "true")


def _origin(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]+", text):
        raise ValueError(f"{text!r} is not an origin such as https://example.com")
    return text


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an address or network") from None


def _queue(text: str) -> tuple[str, int]:
    name, _, slots = text.partition("=")
    if name not in QUEUES or not re.fullmatch(r"[0-9]{1,3}", slots) or int(slots) > _QUEUE_LIMIT:
        raise ValueError(f"must be NAME=N, NAME one of {', '.join(QUEUES)}, N a whole number up to {_QUEUE_LIMIT}")
    return name, int(slots)


def _log_format(text: str) -> str:
    if text not in ("text", "json"):
        raise ValueError("must be text or json")
    return text


def default_data_dir() -> Path:
    """Return where the embedded database lives unless told otherwise."""
    return Path("/var/lib/ledger") if os.geteuid() == 0 else Path(platformdirs.user_data_dir("ledger"))


OPTIONS: Final = (
    Option(
        "listen",
        "listen",
        _endpoint,
        "tcp:8080:interface=127.0.0.1",
        "where to listen: a Twisted endpoint string; may be repeated",
        repeats=True,
    ),
    Option("database", "database", _database, None, "a PostgreSQL URL; left out: embedded PostgreSQL"),
    Option("data-dir", "data_dir", lambda text: Path(text).absolute(), None, "where the embedded database lives"),
    Option("pool-size", "pool_size", _number(1, _POOL_LIMIT), "5", "connections for reads and short work"),
    Option("jwt-secret-file", "jwt_secret", _secret_file, None, f"a file with the secret, or {_SECRET_VARIABLE}"),
    Option("rate-limit", "rate_limit", _rate, "100/60", "requests per seconds and client, or 0"),
    Option("currency", "currency", _currency, "USD", "the currency of first accounts"),
    Option(
        "max-amount",
        "max_amount",
        _number(1, MAX_AMOUNT),
        str(DEFAULT_MAX_AMOUNT),
        "the largest amount of one operation, in minor units",
    ),
    Option("games-public-key", "games_public_key", _public_key, None, "a PEM file: the key that games sign with"),
    Option("self-funding", "self_funding", _switch, "on", "whether users may bring money in themselves: on or off"),
    Option(
        "cors-origin", "cors_origins", _origin, None, "an origin whose pages may call; may be repeated", repeats=True
    ),
    Option(
        "trusted-proxy",
        "trusted_proxies",
        _network,
        None,
        "a proxy whose X-Forwarded-For counts; may be repeated",
        repeats=True,
    ),
    Option(
        "metrics-listen",
        "metrics_listen",
        _endpoint,
        None,
        "a port of its own for metrics and liveness, open to whoever reaches it; may be repeated",
        repeats=True,
    ),
    Option("log-format", "log_format", _log_format, "text", "text for people, json for machines"),
    Option(
        "queue",
        "queues",
        _queue,
        None,
        "how many jobs of a queue run at once here: NAME=N; may be repeated",
        repeats=True,
    ),
    *(Option(*row) for row in PAYMENT_OPTIONS),
    Option("reuse-port", "reuse_port", _flag, "off", "share the port with other server processes", is_flag=True),
)


def read_config(given: Mapping[str, Sequence[str]], environ: Mapping[str, str]) -> Config:
    """Return the configuration that options, and else variables, give; raises `ConfigurationError`."""
    values: dict[str, Any] = {}
    for option in OPTIONS:
        texts = given.get(option.name)
        if texts is None and environ.get(option.variable):
            text = environ[option.variable]
            texts = text.split() if option.repeats else [text]
        if texts is None:
            texts = [] if option.default is None else [option.default]
        try:
            read = tuple(option.read(text) for text in texts)
        except ValueError as error:
            raise ConfigurationError(f"--{option.name}: {error}") from error
        values[option.field] = read if option.repeats else next(iter(read[-1:]), None)
    if values["jwt_secret"] is None and environ.get(_SECRET_VARIABLE):
        try:
            values["jwt_secret"] = _secret(environ[_SECRET_VARIABLE])
        except ValueError as error:
            raise ConfigurationError(f"{_SECRET_VARIABLE}: {error}") from None
    values["data_dir"] = values["data_dir"] or default_data_dir()
    return Config(**values)
