"""What do all commands have in common?

`command` turns errors into one line and an exit status. `recipe_flags`, `speed_flags` and `cache_flags` are the flags
they share. `outputs` says where results may be written.

Imports `remote`, `processes`, `durable` and `views`, and nothing that draws.
"""
