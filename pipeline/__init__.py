"""The core: what a view is, how it is drawn, what the teacher said about it, and how that is kept and proven.

One folder a room. A room imports only rooms below it; from the ground up: errors, progress and spread (here),
`remote`, `models`, `labels`, `pictures`, `proofs`, `processes`, `durable`, `shards`, `picture_cache`, `views`,
`packing`, `store`, `commands`, `rendering`, `feeding`, `inspection`, `teacher`, `labelling`. `stages` and `student`
stand on this package and do not know each other.
"""
