"""What did the teacher say about a view, in how many bytes, and what does a student get back?

`keep` says how much is kept: every logit, the largest K, or the class alone. `soft_labels` holds answers in one keep,
encodes them, narrows them, and gives soft targets back.

Imports no other room.
"""
