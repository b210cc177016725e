"""How is a planned view drawn, fast and always alike?

`renderer` executes plans: it decodes (`decoded`: of a tiled picture only what the views need, and nothing of what
the node has decoded before), crops, applies `operations`, erases with `noise`, mixes and makes checksums.
`view_cache` reads what the node has drawn before, and `node_caches` says where it keeps what. `loader` does all that in
worker processes, straight into the slots of a shared `ring`, and `effort` counts what it cost.
`drift` draws a store's witnesses again.

Imports `pictures`, `picture_cache`, `processes`, `shards`, `views`, `proofs` and `store` (the witnesses it compares
with).
"""
