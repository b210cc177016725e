"""How do people's pictures become shards?

`sources` finds pictures and classes in folders, `table` those that a table lists, and `keys` names them. `payloads`
checks and shrinks them, `tiled` makes them cheap to decode in part, and `writing` writes the tars, whole, the same
bytes every time; `out_folder` says what lies there already. `retiling` makes tiled shards of shards that there are.

Imports `remote`, `pictures`, `processes`, `durable` and `shards`.
"""
