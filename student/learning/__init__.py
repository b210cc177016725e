"""How does a step change the weights?

`loss` is what a batch costs, `optimizer` the rates and decays, `engine` one update, `compiling` what of a student is
compiled, `settings` all that decides a run.

Imports `network`, `ranks` and `feed`.
"""
