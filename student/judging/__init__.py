"""How good is a trained student?

`scoring` runs it over pictures, `metrics` counts, `predictions` lists single answers, `token_similarity` compares its
tokens; `results` and `plots` write and draw, `classes` compares names, `evaluation_recipe` says how pictures are
prepared.

Imports `network`, `ranks`, `checkpoints` and `feed`.
"""
