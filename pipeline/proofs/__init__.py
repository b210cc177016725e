"""What shows that a view is the one that was labelled?

`checksums` says what the pixels of a view are in four bytes, and how it looks in sixteen; `proof` what a store keeps of
them, in which form; `same_views` compares the views of a machine with those that were labelled.

Imports `store`, for the forms that its manifest names. It draws nothing.
"""
