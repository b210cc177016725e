"""What is a label store, how is it written, and when may it be believed?

`reader` opens a finished store and believes no byte of it unchecked; `writer` makes, resumes, mends and grows one, with
`recovery`, which says what is kept. `manifest` is the contract that a store was made under, `layout` its units and
arrays, `arrays` how a block of one becomes bytes. `unit_labels` is what is stored of one unit, `witness` the views that
are kept in full. `receipts` and `digest_list` say what was finished, and `contents` whether that is what stands there.

Imports `labels`, `proofs`, `durable`, `shards` and `views`. It draws nothing: witnesses are handed to it.
"""
