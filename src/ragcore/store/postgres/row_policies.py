"""The policies of row-level security that ragcore creates, and how PostgreSQL prints them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

__all__ = ["foreign_policies"]

# The policies that ragcore creates, as PostgreSQL prints them. Any other policy could show a tenant's rows to another tenant.
_OWN = r"case when \(tenant = current_setting\('ragcore\.tenant'::text, true\)\) then true"
_LOUD = (
    r" when \(coalesce\(current_setting\('ragcore\.tenant'::text, true\), ''::text\) <> ''::text\) then false"
    r" else (?:\"?(?P<raises>\w+)\"?\.)?tenant_is_missing\(\) end"
)
_COUNTING = r"\(current_setting\('ragcore\.counting'::text, true\) = 'on'::text\)"
# This policy is joined to the others by AND, so it can only hide rows.
_NOT_EXPIRED = r"\(\(expires_at is null\) or \(expires_at > now\(\)\) or \(current_setting\('ragcore\.expired'::text, true\) = 'on'::text\)\)"
# This policy shows the rows of tenants that the owner has listed, for reading only.
_SHARED = (
    r"case when \(coalesce\(current_setting\('ragcore\.shared'::text, true\), ''::text\) = ''::text\) then false"
    r" when \(tenant = any \(\(current_setting\('ragcore\.shared'::text, true\)\)::text\[\]\)\)"
    r" then \(tenant in \( select s\.tenant from (?:\"?\w+\"?\.)?shared_tenant s\)\) else false end"
)
POLICIES = re.compile(
    rf"\w+: (own_rows \* true {_OWN}(?: else false end|{_LOUD}) - true|counting r true {_COUNTING} - true"
    rf"|not_expired r false {_NOT_EXPIRED} - true|shared_rows r true {_SHARED} - true)",
    re.IGNORECASE,
)


def foreign_policies(policies: Sequence[str], schema: str) -> Iterator[str]:
    """Yield the policies that ragcore did not create, as "table: name"."""
    for policy in policies:
        found = POLICIES.fullmatch(" ".join(policy.split()).replace("(CASE", "CASE").replace("END)", "END"))
        # PostgreSQL omits the schema's name if the search path contains the schema.
        if found is None or found["raises"] not in (None, schema):
            table, rest = policy.split(": ", 1)
            yield f"{table}: {rest.split(' ')[0]}"
