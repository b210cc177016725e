"""What did the teacher say about a view, in how many bytes, and what does a student get back?

`keep` says what a keep is: it owns its arrays, how they are filled, what can be wrong with them, and the soft targets
that they give back. `dense`, `topk`, `lowrank` and `argmax` are the keeps there are, and `keeps` finds the one that a
user wrote. `codes` writes logits in 16 bits; `lowrank_codec` the largest ones, and the rest as a few coefficients along
`components`, with the products of `one_thread`. `soft_labels` holds the answers about some views, encodes and narrows
them.

Imports no other room.
"""
