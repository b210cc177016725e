"""What is decided about a view, before any pixel is touched?

`recipe` holds everything that decides pixels. `philox` gives random words without a state, `distributions` and
`randaugment` make numbers and operations of them, `crops` and `mixing` places and partners, and `plan` puts it all into
arrays that can be printed. `imagenet` has two constants.

Imports `shards`, for keys and sizes.
"""
