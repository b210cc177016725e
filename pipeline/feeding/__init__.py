"""Does the device get views as fast as it could take them, and if not, what would help here?

`watch` measures the beginning of a run and says it once. `advice` is the arithmetic: a measurement in, a sentence out.

Imports `processes`, `shards` and `rendering`.
"""
