"""How do bytes get under a name so that they are there whole and for good, or not at all?

`objects` is all that a store asks of its medium. `local` gives it on a file system, with `local_lock`; `s3` gives it in
a bucket, with the calls of `s3_bucket` and the locks of `s3_lease`. `writer_lock` lets several processes write one
store. `folder` makes a new folder whole, `file` one file, and `aside` moves finished work out of the way without
removing it. `canonical` is the one JSON whose bytes can be compared.

Imports `remote`, through which buckets are reached.
"""
