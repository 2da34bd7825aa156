-- What a call has used. $1 tenant, $2 the call's id, $3 tokens, $4 their cost, $5 requests and $6 tokens a minute
select {schema}.settle_call($1::text, $2::text, $3::float8, $4::float8, $5::float8, $6::float8)
