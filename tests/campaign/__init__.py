"""The fault campaign: does anything go wrong without a word?

    python -m tests.campaign                          every row at full counts, within an hour on two idle cores
    python -m tests.campaign flips tars --scale 10%   some rows, some of the counts
    python -m tests.campaign --seed 7                 the same with other kill times, mutations and places

One module for each row of the table in docs/trust.md: `run` damages real files, kills real processes and makes real
calls fail, and tallies what came of it. *Silent* is what was wrong and nobody was told; a *failure* is anything else
that is not as promised (an unclear error, a run that does not resume). `sabotage` takes the mechanism away that the row
is about, and must be noticed: a campaign that cannot fail shows nothing.
"""
