"""Can a store be trusted, and are its labels any good?

`audit` reads every byte. `recheck` draws views and asks the teacher again. `quality` sums the labels up, `view_quality`
says how often the teacher is right on each view, and `fidelity` what a smaller keep has lost. `gauge` measures how much
of the teacher's signal a keep gives back, and `doctor` whether the teacher is fit to label such views. `stored_codes`
reads answers in full from a dense store.

Imports what it inspects: `labels`, `durable`, `shards`, `views`, `proofs`, `store` and `rendering`.
"""
