-- A call of a tenant. $1 tenant, $2 the call's id, $3 seconds that it may take, $4 requests and $5 tokens a minute, $6 calls at once, $7 spending a day
select admitted, requests, tokens, calls, spent from {schema}.admit_call($1::text, $2::text, $3::float8, $4::float8, $5::float8, $6::integer, $7::float8)
