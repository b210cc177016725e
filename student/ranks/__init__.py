"""Which of the run's processes is this, and what do all of them agree on?

`ranks` joins the process group; `shared_index` has one rank of a node scan the shards and hands the index round.

Imports no other room.
"""
