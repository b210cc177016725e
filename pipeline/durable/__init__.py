"""How do bytes get under a name so that they are there whole and for good, or not at all?

`objects` is all that a store asks of its medium; `local` gives it on a file system and `s3` in a bucket. `writer_lock`
lets several processes write one store. `folder` makes a new folder whole, `file` one file, and `aside` moves what took
long out of the way. `canonical` is the one JSON whose bytes can be compared.

Imports `remote`, through which buckets are reached.
"""
