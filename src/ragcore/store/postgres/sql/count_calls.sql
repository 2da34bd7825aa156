-- Calls of a tenant. $1 tenant, $2 the ledger, $3 its tokens and $4 their cost, $5 calls that have ended, $6 the one that begins or null and $7 its
-- seconds, $8 requests and $9 tokens a minute, $10 calls at once, $11 spending a day
select admitted, requests, tokens, calls, spent from {schema}.count_calls(
    $1::text, $2::text, $3::float8, $4::float8, $5::text[], $6::text, $7::float8, $8::float8, $9::float8, $10::integer, $11::float8
)
