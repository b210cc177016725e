"""The paper's claims in miniature: each table a set of runs of the real commands, each row with several seeds.

    python -m benchmarks.evidence distillation --data FOLDER --work FOLDER

pictures → steps → experiments → tables, in this direction of imports: `pictures` lays down folders of images, a `Step`
is one command with its place, an experiment says which steps a table stands on (`experiments`, `courses`; by name in
`catalogue`), a table reads what they left, and `claims` what published tables say of the paper (`statistic`).
"""
