"""How do people's pictures become shards?

`sources` finds pictures and classes in folders or a table, `keys` names them, `payloads` checks and shrinks them, and
`writing` writes the tars, whole, the same bytes every time.

Imports `pictures`, `processes`, `durable` and `shards`.
"""
