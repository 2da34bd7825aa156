"""DSNs in the forms that hosting services, drivers and people write."""

from __future__ import annotations

import socket
import string
from pathlib import Path

import pytest
from asyncpg.connect_utils import _parse_connect_dsn_and_args  # type: ignore[attr-defined]
from hypothesis import given
from hypothesis import strategies as st

from ragcore import Config, ConfigurationError
from ragcore.store.postgres.dsn import Address, parse

CANARY = "c4n4ry"


def driven(address: Address) -> tuple[list[object], object]:
    """Return the addresses and parameters that asyncpg parses."""
    found = _parse_connect_dsn_and_args(
        dsn=address.dsn.reveal(),
        **dict.fromkeys(
            "host port user password passfile database ssl service servicefile direct_tls server_settings target_session_attrs krbsrvname gsslib".split()
        ),
    )
    return list(found[0]), found[1]


@pytest.mark.parametrize(
    ("dsn", "addresses"),
    [
        ("postgresql://u:p@h/db", [("h", 5432)]),
        ("postgres://u:p@h:5433/db", [("h", 5433)]),
        ("postgresql://u:p@h1:5432,h2:5433/db?target_session_attrs=read-write", [("h1", 5432), ("h2", 5433)]),
        ("postgresql://u@h1,h2/db", [("h1", 5432), ("h2", 5432)]),
        ("postgresql://u@[::1]:5433/db", [("::1", 5433)]),
        ("postgresql://u@[2001:db8::1],h2:1/db", [("2001:db8::1", 5432), ("h2", 1)]),
        ("postgresql://u@/db?host=/tmp/a%20b", ["/tmp/a b/.s.PGSQL.5432"]),
        ("postgresql://u@/db?host=/tmp/x&port=7", ["/tmp/x/.s.PGSQL.7"]),
        ("postgresql://u@%2Ftmp%2Fx/db", ["/tmp/x/.s.PGSQL.5432"]),
        ("postgresql:///db?host=h1,h2&port=1,2", [("h1", 1), ("h2", 2)]),
        ("postgresql://u@h/db?hostaddr=10.0.0.1", [("10.0.0.1", 5432)]),
        # Forms that libpq accepts.
        ("postgresql://h/db?port=6543", [("h", 6543)]),
        ("postgresql://h1,h2:7/db?port=6543", [("h1", 6543), ("h2", 7)]),
        ("postgresql:///db?hostaddr=10.0.0.5&port=6000", [("10.0.0.5", 6000)]),
        ("postgresql://u@h/db?user=y&host=h2&port=2", [("h2", 2)]),
        ("postgresql://h:/db", [("h", 5432)]),
        ("postgresql:///db?host=%2Ftmp%2Fp%2541q", ["/tmp/p%41q/.s.PGSQL.5432"]),
        ("postgresql://h/db?ssl=true", [("h", 5432)]),
        # Forms of Neon, Supabase, Heroku and RDS.
        ("postgresql://u:p@ep-x.neon.tech/neondb?sslmode=require&channel_binding=require", [("ep-x.neon.tech", 5432)]),
        ("postgresql://u:p@h:6543/postgres?pgbouncer=true&connect_timeout=15", [("h", 6543)]),
        ("postgres://u:p@h/db?sslmode=require&keepalives=1&keepalives_idle=30&gssencmode=disable", [("h", 5432)]),
        ("postgresql://u:p@h/db?application_name=x&options=-c%20statement_timeout%3D5s", [("h", 5432)]),
    ],
)
def test_dsns_that_libpq_accepts_reach_the_driver(
    dsn: str, addresses: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPORT", raising=False)
    assert driven(parse(dsn))[0] == addresses


def test_parameters_override_the_rest_and_a_plus_sign_stays_one() -> None:
    address = parse("postgresql://u:old@h/db?user=y&password=a+b%20c&application_name=a+b")
    parameters = driven(address)[1]
    assert (parameters.user, parameters.password) == ("y", "a+b c")  # type: ignore[attr-defined]
    assert address.user == "y"
    assert "application_name=a%2Bb" in address.dsn.reveal()


def test_ragcore_handles_parameters_that_the_driver_lacks() -> None:
    address = parse("postgresql://h/db?connect_timeout=7&keepalives=1&keepalives_idle=30&tcp_user_timeout=9000")
    assert address.connect_timeout == 7.0
    assert (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1) in address.socket_options
    assert (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30) in address.socket_options
    assert "connect_timeout" not in address.dsn.reveal()
    assert parse("postgresql://h/db?connect_timeout=0").connect_timeout is None


def test_roots_of_the_system_mean_that_the_server_is_verified() -> None:
    address = parse("postgresql://h/db?sslrootcert=system")
    assert address.ssl is not None
    assert address.ssl.check_hostname
    assert address.sslmode == "verify-full"
    with pytest.raises(ConfigurationError, match="sslrootcert"):
        parse("postgresql://h/db?sslrootcert=system&sslmode=require")


def test_options_that_the_driver_does_not_support_are_noted() -> None:
    assert "channel_binding" in parse("postgresql://h/db?channel_binding=require&sslmode=require").notes[0]
    assert parse("postgresql://h/db?channel_binding=prefer").notes == ()


@pytest.mark.parametrize(
    ("dsn", "named"),
    [
        ("postgresql://h/db?schema=public", "schema"),
        ("postgresql://h/db?connection_limit=5", "connection_limit"),
        ("postgresql://h/db?pool_timeout=5", "pool_timeout"),
        ("postgresql://h/db?statement_timeout=5", "statement_timeout"),
        ("postgresql://h/db?sslmod=require", "sslmod"),
        ("postgresql://h/db?sslmode=on", "sslmode"),
        ("postgresql://h/db?pgbouncer=maybe", "pgbouncer"),
        ("postgresql://h/db?gssencmode=require", "gssencmode"),
        ("postgresql://h/db?require_auth=scram-sha-256", "require_auth"),
        ("postgresql://h/db?client_encoding=LATIN1", "client_encoding"),
        ("postgresql://h/db?connect_timeout=soon", "connect_timeout"),
        ("postgresql://h/db?sslrootcert=/no/such/file.pem", "/no/such/file.pem"),
        ("postgresql://h/db?sslcert=/no/such/file.crt", "sslcert"),
        ("postgresql:///db?host=a,b,c&port=1,2", "3 hosts and 2 ports"),
        ("postgresql:///db?host=a&port=x", "port"),
        ("postgresql:///db?host=a&port=99999", "port"),
        ("postgresql:///db?host=a,", "empty host"),
        ("postgresql://h/db?keepalives_idle=99999999999", "keepalives_idle"),
        ("postgresql://h/db?target_session_attrs=bogus", "target_session_attrs"),
        ("postgresql://h/db?password", "can't be parsed"),
        ("postgresql://h/db%00x", "can't|does not begin"),
        ("postgresql://h/db?hostaddr=1.2.3.4&sslmode=verify-full", "hostaddr"),
    ],
)
def test_parameters_that_are_not_supported_are_named(dsn: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named.replace("/", "/")):
        parse(dsn)


@pytest.mark.parametrize("special", ["@", "/", "#", "?", ":", "@x:", "/x@", "?a=b&c", "#/?@", "[", "]", "%zz", " "])
def test_a_password_that_is_not_encoded_is_refused_or_kept_and_never_shown(special: str) -> None:
    dsn = f"postgresql://u:{CANARY}{special}{CANARY}@h/db"
    try:
        address = parse(dsn)
    except ConfigurationError as error:
        assert CANARY not in str(error)
        assert "encode" in str(error)
    else:
        assert CANARY not in f"{address} {address!r}"
        parameters = driven(address)[1]
        assert parameters.password.count(CANARY) == 2  # type: ignore[attr-defined]


@given(st.text(string.printable, max_size=30), st.text(string.ascii_letters + "._-@ /", min_size=1, max_size=20))
def test_an_encoded_login_arrives_as_it_was(password: str, user: str) -> None:
    from urllib.parse import quote

    address = parse(f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@h:1/db")
    parameters = driven(address)[1]
    assert parameters.user == user  # type: ignore[attr-defined]
    assert (parameters.password or "") == password  # type: ignore[attr-defined]
    assert address.user == user


@given(st.text(max_size=80))
def test_any_text_is_parsed_or_raises_a_configuration_error(text: str) -> None:
    for dsn in (text, f"postgresql://{text}", f"postgresql://h/db?{text}"):
        try:
            assert parse(dsn).dsn.reveal().startswith("postgresql://")
        except ConfigurationError:
            continue


def test_lists_in_the_environment() -> None:
    environment = {"PGHOST": "h1,h2", "PGPORT": "5432,5433", "PGDATABASE": "db", "PGUSER": "u", "PGPASSWORD": "p@ss/w"}
    config = Config.from_env({**environment, "RAGCORE_EMBEDDING_MODEL": "local", "RAGCORE_MODELS": "extractive"})
    assert config.dsn is not None
    addresses, parameters = driven(parse(config.dsn))
    assert addresses == [("h1", 5432), ("h2", 5433)]
    assert parameters.password == "p@ss/w"  # type: ignore[attr-defined]


def test_an_existing_certificate_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "root.crt").write_text("")
    assert parse(f"postgresql://h/db?sslmode=verify-full&sslrootcert={tmp_path}/root.crt").sslmode == "verify-full"
