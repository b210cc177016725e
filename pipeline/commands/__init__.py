"""What do all commands have in common?

`command` turns errors into one line and an exit status. `class_flags`, `recipe_flags`, `speed_flags` and `cache_flags`
are the flags they share. `outputs` says where results may be written.

Imports `remote`, `processes`, `durable`, `shards` and `views`, and nothing that draws.
"""
