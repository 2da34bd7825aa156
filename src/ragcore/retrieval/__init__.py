"""A question in, passages out; if there are none, why."""
