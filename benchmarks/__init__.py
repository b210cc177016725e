"""How fast is it, against what, and what is lost between the parts?

    python -m benchmarks                                       # every table; `make bench`
    python -m benchmarks render --photos FOLDER --seconds 20   # one of them
    python -m benchmarks guard                                 # pass or fail, with generous margins
    python -m benchmarks gpu                                   # on a machine with CUDA

Each module `measure`s one table and knows nothing of the others. `race` runs contestants in turn (A B, B A, A B, …) on
the same photographs in one process and compares them pair by pair; `report` writes ``results/NAME.md`` and ``.json``
with the command, the machine and its load; `photographs` makes shards of a folder; `peers` holds the others' loaders.
Wall time decides; processor time stands beside it, because other processes on a machine do not change it.
"""
