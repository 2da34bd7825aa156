-- A part of the searches of an existing table: the passages of the first chunks of an index with half precision. It may confuse neighbours, so twice as many
-- are fetched, and full precision ranks them again. `+ 0` makes a sort key for which the planner assumes no order.
select * from ({walk}) as fetched
order by distance + 0::float8, id collate "C"
limit {depth}
