"""What is a label store, how is it written, and when may it be believed?

`label_store` opens, reads and writes it. `manifest` is the contract it was made under, `layout` and `arrays` its Zarr
arrays, `unit_labels` what is stored of one unit, `witness` the views that are kept in full. `receipts` and
`digest_list` say what was finished, `recovery` what is kept when writing goes on, `reading` what a reader checks, and
`unchanged` whether the classes in the shards are still those of its index.

Imports `labels`, `durable`, `shards` and `views`. It draws nothing: witnesses are handed to it.
"""
