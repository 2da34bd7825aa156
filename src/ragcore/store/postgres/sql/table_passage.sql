-- A part of the searches of an existing table: the passage of a row, which its table and its ctid identify.
select {passage_columns}{and_embedding}
from {rows} where c.row_place = n.row_place and c.row_table = n.row_table and c.tenant = n.tenant
limit 1
