-- Record a tenant's use, and admit a call. $1 tenant, $2 ledger, $3 its tokens and $4 their cost, $5 calls that have ended, $6 the call that begins or
-- null and $7 its seconds; the limits: $8 requests and $9 tokens per minute, $10 calls at once, $11 spending per day
select admitted, requests, tokens, calls, spent from {schema}.count_calls(
    $1::text, $2::text, $3::float8, $4::float8, $5::text[], $6::text, $7::float8, $8::float8, $9::float8, $10::integer, $11::float8
)
