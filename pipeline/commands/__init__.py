"""What do all commands have in common?

`command` turns errors into one line and an exit status, and `gather` several flags into one value. `class_flags`,
`recipe_flags`, `speed_flags` and `cache_flags` are the flags they share. `places` are the types of flags that name what
is read or written, and `outputs` says where results may lie.

Imports `remote`, `processes`, `shards` and `views`, and nothing that draws.
"""
