"""Where does a node keep the pictures that it has decoded, and why can they be believed?

`kept` is the cache: it shows the rows of a picture that a crop needs, and takes pictures until it is full. `entry` is
the file of one picture, with a checksum for each band of its rows; `ledger` counts the bytes of all, for all processes;
`decoder` names what decides pixels, and pictures of another decoder are never looked at. `of_index` opens the cache for
the pictures of an index, and says how many of them it can hold.

Imports `pictures`, `shards` and `durable` (whether an open folder still has its name).
"""
