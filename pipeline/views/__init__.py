"""What is decided about a view, before any pixel is touched?

`recipe` holds everything that decides pixels. `philox` gives random words without a state, `distributions` makes
numbers of them, `randaugment` operations out of the rows of `operation_table`; `crops` and `mixing` places and
partners, and `plan` puts it all into arrays that can be printed. `imagenet` has two constants.

Imports `shards`, for keys and sizes, and `durable`, for a recipe's one text.
"""
