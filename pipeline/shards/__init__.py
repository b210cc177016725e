"""What is in the shards: which rows, with which key, class and bytes?

`patterns` says which tars are meant, `tar` and `samples` what is in one, `truth` which class a sample is of, `files`
reads a row in place. `index` is the table of all rows; `index_checks` proves it, `index_file` maps a large one,
`sidecars` reads what `pack` wrote beside the tars, `rows` the class of one row again. `same_pictures` finds out whether
tiled and plain shards show the same. `key_hash` is the number that a key's random draws hang on.

Imports `remote`, `pictures`, `processes` and `durable`.
"""
