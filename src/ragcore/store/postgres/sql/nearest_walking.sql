-- A part of the searches: the same, walking on through the index as far as it takes. That gives chunks in an order that is only about right, so more are
-- fetched than are wanted. The planner takes the order for right, and would sort no further than it is asked to: `+ 0` is a key that it doesn't know.
select * from ({by_index}) as fetched
order by distance + 0::float8, id collate "C"
limit {depth}
