-- A part of the searches of an existing table: the passages of the first chunks of the index.
select {passage_columns}{and_embedding}, {distance} as distance
from {walked}
where c.embedding is not null and case when c.tenant = s.tenant then true else false end {filter}
order by {indexed}
limit {fetched}
