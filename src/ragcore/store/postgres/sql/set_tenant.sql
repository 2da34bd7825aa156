-- Set the tenant whose rows the rest of the transaction sees and writes, expired ones included. $1 tenant
select set_config('ragcore.tenant', $1::text, true), set_config('ragcore.expired', 'on', true)
