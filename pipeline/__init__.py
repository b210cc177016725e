"""The shared core: what a row is, what a view of it looks like, and what the teacher said about that view.

One noun per file; each opens with the question that it answers. ``docs/architecture.md`` is the map. ``stages`` and
``student`` both stand on this package and do not know each other.
"""
