-- A part of the searches: sort the chunks of an iterative walk through the index. The walk returns chunks in a rough order, so more are fetched than are
-- wanted. The planner assumes that the order is exact and would not sort again; `+ 0` makes a sort key for which it assumes no order. `found` is the number of
-- chunks that were fetched.
select {columns}, distance, count(*) over () as found from ({by_index}) as fetched
order by distance + 0::float8, id collate "C"
limit {depth}
