"""Tenants and ids as values of their columns."""

from __future__ import annotations

from contextlib import suppress
from uuid import NAMESPACE_OID, UUID, uuid5

from ragcore.errors import InvalidInput
from ragcore.store.postgres.table.statements import Shape

__all__ = ["id_of", "new_id_of", "parameters", "tenant_of"]

INTEGER_BITS = {"int2": 16, "int4": 32, "int8": 64}


def tenant_of(tenant: str, type_: str) -> object:
    """Return the tenant as a value of its column.

    Raises:
        InvalidInput: the tenant is not a value of the column's type. Only one spelling of an integer or a UUID is accepted, so that no tenant has two names:
            limits, caches and the audit log compare names.
    """
    if type_ == "uuid":
        parsed = None
        with suppress(ValueError):
            parsed = UUID(tenant)
        if parsed is not None and str(parsed) == tenant:
            return parsed
        if parsed is not None and str(parsed) == tenant.lower():
            raise InvalidInput(f"the tenant {tenant!r} is a UUID with capital letters: write it as {parsed}")
        raise InvalidInput(f"the tenant {tenant!r} is not a UUID, and the column of the tenants has that type")
    if type_ in INTEGER_BITS:
        number = _integer(tenant, INTEGER_BITS[type_])
        if number is None:
            raise InvalidInput(
                f"the tenant {tenant!r} is not a number of the type {type_}, and the column of the tenants has that type"
            )
        return number
    return tenant


def parameters(tenant: str, shape: Shape, *values: object) -> list[object]:
    """Return the values of a statement's parameters: the tenant, the given ones, and those of the settings."""
    settings = [value(tenant) for value in shape.table.settings.values()]
    return [tenant_of(tenant, shape.tenant_type), *values, *settings]


def id_of(text: str, type_: str) -> str | None:
    """Return the id of a chunk or document if it is a value of its column; else None: it does not exist."""
    if type_ == "uuid":
        try:
            return str(UUID(text))
        except ValueError:
            return None
    if type_ in INTEGER_BITS:
        return None if _integer(text, INTEGER_BITS[type_]) is None else text
    return text


def new_id_of(chunk_id: str, type_: str, *, tenant: str) -> str:
    """Return the id that a new chunk gets. In a column of type uuid, an id that is not a UUID becomes one, always the same for a tenant and an id."""
    return id_of(chunk_id, type_) or str(uuid5(NAMESPACE_OID, f"{tenant}\n{chunk_id}"))


def _integer(text: str, bits: int) -> int | None:
    """Return the integer that a text spells, without leading zeros or a plus sign; None if it spells none, or the integer does not fit the type."""
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) <= 20):
        return None
    number = int(text)
    return number if str(number) == text and -(2 ** (bits - 1)) <= number < 2 ** (bits - 1) else None
