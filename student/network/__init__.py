"""What is the student?

`model` is DeiT: a timm vision transformer with a class token and a distillation token, two heads and their fusion.
`drop_path` drops branches, and `dropout` numbers, by draws that belong to the item.

Imports no other room.
"""
