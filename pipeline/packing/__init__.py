"""How do people's pictures become shards?

`sources` finds pictures and classes in folders or a table, `keys` names them, `payloads` checks and shrinks them,
`tiled` makes them cheap to decode in part, and `writing` writes the tars, whole, the same bytes every time. `retiling`
makes tiled shards of shards that there are.

Imports `pictures`, `processes`, `durable` and `shards`.
"""
