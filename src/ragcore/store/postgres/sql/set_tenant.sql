-- Whose rows the rest of the transaction sees and writes, the expired ones too. $1 tenant
select set_config('ragcore.tenant', $1::text, true), set_config('ragcore.expired', 'on', true)
