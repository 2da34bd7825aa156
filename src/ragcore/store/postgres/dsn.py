"""Parse a DSN into a part to show, a part for the driver, and options that ragcore handles itself.

asyncpg sends each unknown parameter to the server, which then refuses the connection without naming the parameter. So this module handles every
parameter of libpq, and raises `ConfigurationError` for any other one.

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

__all__ = ["Address", "parse", "parse_each"]

DEFAULT_PORT = 5432
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# asyncpg handles these parameters itself.
DRIVER_PARAMETERS = frozenset(
    "host port dbname database user password passfile service sslmode sslcert sslkey sslrootcert sslcrl sslpassword sslnegotiation "
    "ssl_min_protocol_version ssl_max_protocol_version target_session_attrs krbsrvname gsslib".split()
)
# These parameters go to the server as settings of the session.
SESSION_PARAMETERS = frozenset("application_name options".split())
# The driver does not get these parameters. ragcore sets the socket options itself, and ignoring the other parameters does no harm.
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
# The driver supports only these values. Any other value is refused, because ignoring it could weaken security. For channel_binding=require, see `_notes`.
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
# Parameters in DSNs of other drivers, and ragcore's replacements.
OTHER_DRIVERS = {
    "connection_limit": "it is Prisma's; set pool_size or RAGCORE_POOL_SIZE",
    "pool_timeout": "it is Prisma's; remove it, since ragcore's deadlines limit the wait for a connection",
    "schema": "it is Prisma's; set schema or RAGCORE_SCHEMA",
    "socket_timeout": "it is Prisma's; remove it, since ragcore's deadlines limit every call",
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
# Brackets, and the characters of the private use area that replace them while the standard library splits the DSN.
HIDDEN = str.maketrans("[]", "\ue000\ue001")
SHOWN = str.maketrans("\ue000\ue001", "[]")
# A parameter's name may be shown if it can't be a part of a password.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,40}")
ENCODE = "percent-encode special characters in a user or password: @ as %40, / as %2F, # as %23, ? as %3F, : as %3A"


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a database. Shown without its password.

    Attributes:
        dsn: the DSN for asyncpg.
        host: host to show; several hosts as "h1:5432,h2:5433"; "" if the DSN has none and PostgreSQL's default applies.
        port: port to show; None if there are several hosts, or the default applies.
        database, user: names to show; "" if the DSN has none and PostgreSQL's defaults apply.
        pgbouncer: whether a pooler in transaction mode is in front of the server (`?pgbouncer=true`). Statements are then not prepared.
        connect_timeout: seconds for one attempt to connect. None: only the deadline applies.
        sslmode: the DSN's sslmode. None: the driver's default, which is "prefer" over TCP.
        ssl: a context that replaces the driver's context, for `sslrootcert=system`.
        socket_options: (level, option, value) for each new connection.
        notes: options of the DSN that the driver does not support.
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
        ConfigurationError: the DSN has another form, a parameter is unknown or not supported, or a file does not exist. The message names the
            parameter, and never shows the DSN.
    """
    return _parsed(dsn, apart=False)[0]


def parse_each(dsn: str | Secret, /) -> list[Address]:
    """Parse a DSN as `parse` does, and return one address for each of its hosts.

    Raises:
        ConfigurationError: as in `parse`.
    """
    return _parsed(dsn, apart=True)


def _parsed(dsn: str | Secret, *, apart: bool) -> list[Address]:
    # The error is raised without the frames that hold the DSN in a variable.
    dsn = dsn if isinstance(dsn, Secret) else Secret(dsn)
    try:
        return _addresses(dsn, apart=apart)
    except Exception as error:
        raise without_frames(error)  # noqa: B904  # it is the error itself


def _addresses(dsn: Secret, *, apart: bool) -> list[Address]:
    """Return one address with all hosts of the DSN, or an address for each host."""
    login, hosts, database, query = _split(dsn.reveal())
    user, _, password = login.partition(":")
    given = _parameters(query)
    # As in libpq, parameters override the rest of the DSN.
    hosts = _listed(given) if given.get("host") else _with_ports(hosts, given)
    _check(given)
    options = dict(given)
    user, password = options.pop("user", unquote(user)), options.pop("password", unquote(password))
    sslmode = options.get("sslmode")
    context = _system_roots(options)
    if "hostaddr" in options:
        hosts = _by_address(hosts, options.pop("hostaddr"), sslmode)
    # The hosts go into the query, where asyncpg accepts sockets, IPv6 addresses and lists.
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    at = f"{login}@" if login else ""
    base = f"postgresql://{at}/{quote(unquote(database), safe='')}"
    pgbouncer, connect_timeout = _switch("pgbouncer", given.get("pgbouncer", "false")), _connect_timeout(given)
    socket_options, notes = tuple(_socket_options(given)), tuple(_notes(given, options, context))

    def address(hosts: list[tuple[str, int | None]]) -> Address:
        names, ports = [host for host, _ in hosts], [port for _, port in hosts]
        shown = ",".join(f"{host}:{port or DEFAULT_PORT}" for host, port in hosts)
        return Address(
            dsn=Secret(f"{base}?{urlencode(_kept(options, names, ports), quote_via=quote)}".rstrip("?")),
            host=shown if len(names) > 1 else (names[0] if names else ""),
            port=ports[0] if len(ports) == 1 else None,
            database=unquote(database) or options.get("dbname") or options.get("database") or "",
            user=user,
            pgbouncer=pgbouncer,
            connect_timeout=connect_timeout,
            sslmode="verify-full" if context is not None else sslmode,
            ssl=context,
            socket_options=socket_options,
            notes=notes,
        )

    return [address([host]) for host in hosts] if apart and hosts else [address(hosts)]


def _kept(options: Mapping[str, str], names: list[str], ports: list[int | None]) -> dict[str, str]:
    """Return the parameters for the driver."""
    kept = {name: value for name, value in options.items() if name in DRIVER_PARAMETERS | SESSION_PARAMETERS}
    if names:
        kept["host"] = ",".join(f"[{name}]" if ":" in name else name for name in names)
        kept.pop("port", None)
        if any(ports):
            kept["port"] = ",".join(str(port or DEFAULT_PORT) for port in ports)
    return kept


def _split(text: str) -> tuple[str, list[tuple[str, int | None]], str, str]:
    """Return login, hosts with their ports, database and query. Login, hosts and database are still percent-encoded."""
    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in ("postgresql", "postgres"):
        raise ConfigurationError(
            "the DSN is not of the form postgresql://user:password@host:port/database (it is not shown, since it may hold a password)"
        )
    # Some releases of Python refuse a list of hosts with brackets, so the brackets are replaced while it splits the DSN.
    try:
        parts = SplitResult(*(part.translate(SHOWN) for part in urlsplit(text.translate(HIDDEN))))
    except ValueError:
        raise ConfigurationError(f"the DSN can't be parsed (it is not shown): {ENCODE}") from None
    # libpq ends the login at the first @, so a second @ can only be part of the password.
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
            f"the DSN has a % that does not begin a percent-encoded character (it is not shown): {ENCODE}, % as %25"
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
        # A plus sign stays a plus sign: libpq encodes a blank only as %20.
        name, value = unquote(name), unquote(value)
        if NAME.fullmatch(name) is None or not separator or "\0" in value:
            raise ConfigurationError(f"the parameters of the DSN can't be parsed (they are not shown): {ENCODE}")
        given[name] = value
    if given.get("ssl") == "true":  # JDBC's spelling, which libpq accepts as well
        del given["ssl"]
        given.setdefault("sslmode", "require")
    return given


def _check(given: Mapping[str, str]) -> None:
    """Raise `ConfigurationError` for a parameter that is unknown, or whose value is not supported."""
    for name, value in given.items():
        if name in HARMLESS_VALUES and value.lower() not in HARMLESS_VALUES[name]:
            raise ConfigurationError(
                f"the DSN's {name} is {value!r}, which the driver does not support: leave it out, or use {_listing(HARMLESS_VALUES[name])}"
            )
        known = DRIVER_PARAMETERS | SESSION_PARAMETERS | IGNORED_PARAMETERS | HARMLESS_VALUES.keys()
        if name not in known and name not in ("pgbouncer", "connect_timeout", "hostaddr"):
            setting = f"remove it; if it is a setting of the session, write options=-c%20{name}%3D…"
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
            raise ConfigurationError(f"the DSN's {name} names the file {path}, which does not exist: correct the path")


def _listing(values: Iterable[str]) -> str:
    return " or ".join(value for value in values if value) or "nothing"


def _listed(given: Mapping[str, str]) -> list[tuple[str, int | None]]:
    """Return hosts and ports that are given as parameters, as for a folder with the server's socket."""
    return _with_ports([(host, None) for host in given["host"].split(",")], given)


def _with_ports(hosts: list[tuple[str, int | None]], given: Mapping[str, str]) -> list[tuple[str, int | None]]:
    """Return the hosts; those without a port get the port, or ports, of the parameter."""
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
            f"the DSN names {len(ports)} hosts and {len(found)} addresses in hostaddr: give one address for each host"
        )
    return list(zip(found, ports, strict=True))


def _system_roots(options: dict[str, str]) -> ssl.SSLContext | None:
    """Return the context for `sslrootcert=system`, as in libpq since 16: the system's root certificates, and verify-full."""
    if options.get("sslrootcert") != "system":
        return None
    if options.get("sslmode", "verify-full") != "verify-full":
        raise ConfigurationError(
            "the DSN's sslrootcert=system needs sslmode=verify-full: set that, or leave sslmode out"
        )
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
    return float(seconds) if seconds and seconds > 0 else None  # 0 or less means no limit, as in libpq


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
        yield "the driver does not support channel_binding=require: use sslmode=verify-full, which protects against the same attacks"
