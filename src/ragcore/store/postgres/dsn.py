"""A DSN, parsed: what may be shown of it, what the driver gets, and what ragcore does itself.

asyncpg sends each parameter that it doesn't know to the server, which refuses the connection without naming it. So every parameter of libpq is
handled here, and any other one is a `ConfigurationError`.

Source: PostgreSQL's manual, "Connection URIs" and "Parameter Key Words" (libpq-connect).
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit

from ragcore.errors import ConfigurationError
from ragcore.types.secret import Secret, without_frames

__all__ = ["Address", "parse"]

DEFAULT_PORT = 5432
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# asyncpg knows these itself.
DRIVER_PARAMETERS = frozenset(
    "host port dbname database user password passfile service sslmode sslcert sslkey sslrootcert sslcrl sslpassword sslnegotiation "
    "ssl_min_protocol_version ssl_max_protocol_version target_session_attrs krbsrvname gsslib".split()
)
# These go to the server as settings of the session.
SESSION_PARAMETERS = frozenset("application_name options".split())
# Nothing is lost by ignoring these: the driver has no use for them.
IGNORED_PARAMETERS = frozenset(
    "fallback_application_name sslcompression sslsni gssdelegation sslcertmode min_protocol_version max_protocol_version "
    "keepalives keepalives_idle keepalives_interval keepalives_count tcp_user_timeout".split()
)
# The socket options that libpq sets, by parameter.
SOCKET_OPTIONS = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
# Ignoring these could weaken what the caller asked for, so only the values that ask for nothing are accepted.
HARMLESS_VALUES = {
    "gssencmode": ("disable", "prefer"),
    "requirepeer": ("",),
    "require_auth": ("",),
    "replication": ("false", "off", "no", "0"),
    "requiressl": ("0",),
    "client_encoding": ("utf8", "utf-8", "auto", "unicode"),
    "channel_binding": ("disable", "prefer", "require"),
    "load_balance_hosts": ("disable", "random"),
}
# What other drivers' DSNs hold, and what ragcore has in its place.
OTHER_DRIVERS = {
    "connection_limit": "it is Prisma's; set pool_size or RAGCORE_POOL_SIZE",
    "pool_timeout": "it is Prisma's; ragcore's deadlines bound the wait for a connection",
    "schema": "it is Prisma's; set schema or RAGCORE_SCHEMA",
    "socket_timeout": "it is Prisma's; ragcore's deadlines bound every call",
    "statement_cache_size": "use pgbouncer=true behind a pooler in transaction mode",
    "prepared_statement_cache_size": "use pgbouncer=true behind a pooler in transaction mode",
    "sslaccept": "it is Prisma's; use sslmode=verify-full",
    "sslidentity": "it is Prisma's; use sslcert and sslkey",
    "ssl": "use sslmode=require, or better sslmode=verify-full",
    "sslkeypass": "use sslpassword",
    "currentschema": "it is JDBC's; set schema or RAGCORE_SCHEMA",
    "pool_size": "set pool_size or RAGCORE_POOL_SIZE",
}
VALUES = {
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "ssl_min_protocol_version": ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "ssl_max_protocol_version": ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "sslnegotiation": ("postgres", "direct"),
}
LARGEST = 2**31 - 1
FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
# Brackets, and what stands for them while the standard library splits an address: characters of the private use area.
HIDDEN = str.maketrans("[]", "\ue000\ue001")
SHOWN = str.maketrans("\ue000\ue001", "[]")
# A name may be shown if it can't be a piece of a password.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,40}")
ENCODE = "percent-encode special characters in a user or password: @ as %40, / as %2F, # as %23, ? as %3F, : as %3A"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a database is, without its password.

    Attributes:
        dsn: for asyncpg.
        host: to show; with several hosts "h1:5432,h2:5433"; "" where the DSN leaves it to PostgreSQL's default.
        port: None where there are several hosts, or the default.
        database, user: to show; "" where the DSN leaves them to PostgreSQL's own defaults.
        pgbouncer: whether a pooler in transaction mode stands in front (`?pgbouncer=true`): no prepared statements then.
        connect_timeout: seconds for one attempt to connect, as the DSN says; None: the deadline alone bounds it.
        sslmode: as the DSN says; None: the driver's default, which is "prefer" over TCP.
        ssl: a context in place of the driver's own, for `sslrootcert=system`.
        socket_options: (level, option, value) for each new connection.
        notes: what the DSN asks for and the driver can't do.
    """

    dsn: Secret
    host: str
    port: int | None
    database: str
    user: str
    pgbouncer: bool
    connect_timeout: float | None = None
    sslmode: str | None = None
    ssl: ssl.SSLContext | None = field(default=None, repr=False, compare=False)
    socket_options: tuple[tuple[int, int, int], ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = self.host or "localhost"
        return f"{where}{f':{self.port}' if self.port else ''}/{self.database}"


def parse(dsn: str | Secret, /) -> Address:
    """Parse a DSN: postgresql://user:password@host:port,host2:port2/database?parameter=value.

    Raises:
        ConfigurationError: not of that form, a parameter that is unknown or can't be honoured, or a file that does not exist. The message names
            the parameter, and never shows the DSN.
    """
    # What went wrong is told without the frames that have the text in a variable.
    dsn = dsn if isinstance(dsn, Secret) else Secret(dsn)
    try:
        return _parsed(dsn)
    except Exception as error:
        raise without_frames(error)  # noqa: B904  # it is the error itself


def _parsed(dsn: Secret) -> Address:
    login, hosts, database, query = _split(dsn.reveal())
    user, _, password = login.partition(":")
    given = _parameters(query)
    # As in libpq, what stands among the parameters wins.
    hosts = _listed(given) if given.get("host") else _with_ports(hosts, given)
    _check(given)
    options = dict(given)
    user, password = options.pop("user", unquote(user)), options.pop("password", unquote(password))
    sslmode = options.get("sslmode")
    context = _system_roots(options)
    if "hostaddr" in options:
        hosts = _by_address(hosts, options.pop("hostaddr"), sslmode)
    names = [host for host, _ in hosts]
    ports = [port for _, port in hosts]
    kept = {name: value for name, value in options.items() if name in DRIVER_PARAMETERS | SESSION_PARAMETERS}
    if names:
        kept["host"] = ",".join(f"[{name}]" if ":" in name else name for name in names)
        kept.pop("port", None)
        if any(ports):
            kept["port"] = ",".join(str(port or DEFAULT_PORT) for port in ports)
    several = len(names) > 1
    shown = ",".join(f"{host}:{port or DEFAULT_PORT}" for host, port in zip(names, ports, strict=True))
    # The hosts stand in the query, where asyncpg takes sockets, IPv6 addresses and lists alike.
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    at = f"{login}@" if login else ""
    rebuilt = f"postgresql://{at}/{quote(unquote(database), safe='')}?{urlencode(kept, quote_via=quote)}".rstrip("?")
    return Address(
        dsn=Secret(rebuilt),
        host=shown if several else (names[0] if names else ""),
        port=ports[0] if len(ports) == 1 else None,
        database=unquote(database) or options.get("dbname") or options.get("database") or "",
        user=user,
        pgbouncer=_switch("pgbouncer", given.get("pgbouncer", "false")),
        connect_timeout=_connect_timeout(given),
        sslmode="verify-full" if context is not None else sslmode,
        ssl=context,
        socket_options=tuple(_socket_options(given)),
        notes=tuple(_notes(given, options, context)),
    )


def _split(text: str) -> tuple[str, list[tuple[str, int | None]], str, str]:
    """Login, hosts with their ports, database and query; the first three still percent-encoded."""
    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in ("postgresql", "postgres"):
        raise ConfigurationError(
            "the DSN is not of the form postgresql://user:password@host:port/database (it is not shown, since it may hold a password)"
        )
    # Some releases of Python refuse a list of hosts with brackets in it, so they are hidden from it.
    try:
        parts = SplitResult(*(part.translate(SHOWN) for part in urlsplit(text.translate(HIDDEN))))
    except ValueError:
        raise ConfigurationError(f"the DSN can't be parsed (it is not shown): {ENCODE}") from None
    # libpq ends the login at the first @, so a second one can only be a part of the password.
    if parts.netloc.count("@") > 1:
        raise ConfigurationError(f"the DSN has more than one @ before its database (it is not shown): {ENCODE}")
    if parts.fragment or "@" in parts.path or (parts.path.count("/") > 1 and parts.netloc):
        raise ConfigurationError(f"the DSN can't be parsed (it is not shown): {ENCODE}")
    if "@" in parts.query and not parts.path and "@" not in parts.netloc:  # a password with a question mark
        raise ConfigurationError(f"the DSN can't be parsed (it is not shown): {ENCODE}")
    login, _, listed = parts.netloc.rpartition("@")
    if login.count(":") > 1:
        raise ConfigurationError(f"the DSN has more than one : before the @ (it is not shown): {ENCODE}")
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", login + parts.path):
        raise ConfigurationError(
            f"the DSN has a % that begins no code of a character (it is not shown): {ENCODE}, % as %25"
        )
    hosts = [_host(one) for one in listed.split(",")] if listed else []
    return login, hosts, parts.path.lstrip("/"), parts.query


def _host(text: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[0-9A-Za-z:.%]+\]|[^:\[\]]*)(?::(\d*))?", text)
    if match is None or (match[2] and not 0 < int(match[2]) < 65_536):
        raise ConfigurationError(
            f"a host or port in the DSN can't be read (it is not shown): write host:port,host2:port2; {ENCODE}"
        )
    return unquote(match[1].strip("[]")) or "localhost", int(match[2]) if match[2] else None


def _parameters(query: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, separator, value = part.partition("=")
        name, value = (
            unquote(name),
            unquote(value),
        )  # a plus sign is one: libpq knows no other code for a blank than %20
        if NAME.fullmatch(name) is None or not separator or "\0" in value:
            raise ConfigurationError(f"the parameters of the DSN can't be parsed (they are not shown): {ENCODE}")
        given[name] = value
    if given.get("ssl") == "true":  # as JDBC has it, and libpq as well
        del given["ssl"]
        given.setdefault("sslmode", "require")
    return given


def _check(given: Mapping[str, str]) -> None:
    """Each parameter must be known, with a value that can be honoured."""
    for name, value in given.items():
        if name in HARMLESS_VALUES and value.lower() not in HARMLESS_VALUES[name]:
            raise ConfigurationError(
                f"the DSN's {name} is {value!r}, which the driver can't do: leave it out, or use {_listing(HARMLESS_VALUES[name])}"
            )
        known = DRIVER_PARAMETERS | SESSION_PARAMETERS | IGNORED_PARAMETERS | HARMLESS_VALUES.keys()
        if name not in known and name not in ("pgbouncer", "connect_timeout", "hostaddr"):
            setting = f"remove it; a setting of the session goes into options, as in options=-c%20{name}%3D…"
            instead = OTHER_DRIVERS.get(name.lower(), setting)
            raise ConfigurationError(f"the DSN has the unknown parameter {name!r}: {instead}")
    for name, values in VALUES.items():
        if given.get(name, values[0]) not in values:
            raise ConfigurationError(f"the DSN's {name} is {given[name]!r}: use {_listing(values)}")
    if given.get("sslmode", "prefer") not in SSL_MODES:
        raise ConfigurationError(f"the DSN's sslmode is {given['sslmode']!r}: use {_listing(SSL_MODES)}")
    for name in FILES:
        path = given.get(name)
        if path and not (name == "sslrootcert" and path == "system") and not Path(path).expanduser().is_file():
            raise ConfigurationError(f"the DSN's {name} names the file {path}, which does not exist")


def _listing(values: Iterable[str]) -> str:
    return " or ".join(value for value in values if value) or "nothing"


def _listed(given: Mapping[str, str]) -> list[tuple[str, int | None]]:
    """Hosts and ports that stand among the parameters, as for a folder with the server's socket."""
    return _with_ports([(host, None) for host in given["host"].split(",")], given)


def _with_ports(hosts: list[tuple[str, int | None]], given: Mapping[str, str]) -> list[tuple[str, int | None]]:
    """Hosts with the parameter's port, or ports, where they have none of their own."""
    if any(not host for host, _ in hosts):
        raise ConfigurationError("the DSN has an empty host: write host:port,host2:port2")
    try:
        ports = [int(port) if port else None for port in given["port"].split(",")] if given.get("port") else [None]
    except ValueError:
        raise ConfigurationError(
            f"the DSN's port is {given['port']!r}: it must be a number, or one for each host"
        ) from None
    if any(port is not None and not 0 < port < 65_536 for port in ports):
        raise ConfigurationError(f"the DSN's port is {given['port']!r}: it must be from 1 to 65,535")
    if not hosts and given.get("hostaddr"):
        hosts = [("localhost", None)] * (given["hostaddr"].count(",") + 1)
    if len(ports) not in (1, len(hosts)) and hosts:
        raise ConfigurationError(
            f"the DSN names {len(hosts)} hosts and {len(ports)} ports: give one port, or one for each host"
        )
    if not hosts:
        return []
    spread = ports * len(hosts) if len(ports) == 1 else ports
    return [(host, own or port) for (host, own), port in zip(hosts, spread, strict=True)]


def _by_address(
    hosts: list[tuple[str, int | None]], addresses: str, sslmode: str | None
) -> list[tuple[str, int | None]]:
    if sslmode == "verify-full":
        raise ConfigurationError(
            "the DSN's hostaddr can't be combined with sslmode=verify-full, since the certificate names the host: leave hostaddr out"
        )
    found = addresses.split(",")
    ports = [port for _, port in hosts] or [None] * len(found)
    if len(ports) != len(found):
        raise ConfigurationError(
            f"the DSN names {len(ports)} hosts and {len(found)} addresses in hostaddr: give one for each host"
        )
    return list(zip(found, ports, strict=True))


def _system_roots(options: dict[str, str]) -> ssl.SSLContext | None:
    """The context for `sslrootcert=system`, as libpq has since 16: the system's roots, and verify-full."""
    if options.get("sslrootcert") != "system":
        return None
    if options.get("sslmode", "verify-full") != "verify-full":
        raise ConfigurationError("the DSN's sslrootcert=system needs sslmode=verify-full, as libpq does")
    del options["sslrootcert"]
    options.pop("sslmode", None)
    context = ssl.create_default_context()
    if options.get("sslcert"):
        try:
            context.load_cert_chain(options["sslcert"], options.get("sslkey"), options.get("sslpassword"))
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"the DSN's sslcert {options['sslcert']} and sslkey can't be loaded ({type(error).__name__}): they must be PEM files that belong together"
            ) from error
    return context


def _switch(name: str, value: str) -> bool:
    if value.lower() in ("true", "1", "yes", "on"):
        return True
    if value.lower() in ("false", "0", "no", "off"):
        return False
    raise ConfigurationError(f"the DSN's {name} is {value!r}: it must be true or false")


def _number(given: Mapping[str, str], name: str) -> int | None:
    if name not in given:
        return None
    try:
        number = int(given[name])
    except ValueError:
        raise ConfigurationError(f"the DSN's {name} is {given[name]!r}: it must be a whole number") from None
    if abs(number) > LARGEST:
        raise ConfigurationError(f"the DSN's {name} is {given[name]!r}: it must be at most {LARGEST:,}")
    return number


def _connect_timeout(given: Mapping[str, str]) -> float | None:
    seconds = _number(given, "connect_timeout")
    return float(seconds) if seconds and seconds > 0 else None  # 0 or less is without limit, as in libpq


def _socket_options(given: Mapping[str, str]) -> Iterable[tuple[int, int, int]]:
    keepalives = _number(given, "keepalives")
    if keepalives is not None:
        yield socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(keepalives != 0)
    for name, option in SOCKET_OPTIONS.items():
        value = _number(given, name)
        if value and value > 0 and hasattr(socket, option):
            yield socket.IPPROTO_TCP, getattr(socket, option), value


def _notes(given: Mapping[str, str], options: Mapping[str, str], context: ssl.SSLContext | None) -> Iterable[str]:
    verified = context is not None or options.get("sslmode") == "verify-full"
    if given.get("channel_binding") == "require" and not verified:
        yield "channel_binding=require is not supported by the driver: use sslmode=verify-full, which protects against the same attacks"
