"""What is in the shards: which rows, with which key, class and bytes?

`patterns` says which tars are meant, `tar` and `samples` what is in one, `truth` which class a sample is of, `sidecars`
what `pack` wrote beside the tars. `index` is the table of all rows; `index_checks` proves it, `index_file` maps a large
one. `files` reads in place, and `rows` finds out whether a row is still what it was when it was indexed;
`same_pictures`, whether shards elsewhere, tiled or plain, show the same.

Imports `remote`, `pictures`, `processes` and `durable`.
"""
