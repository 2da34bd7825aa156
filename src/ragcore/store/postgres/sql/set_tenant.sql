-- Whose rows the rest of the transaction sees and writes. $1 tenant
select set_config('ragcore.tenant', $1::text, true)
