"""The commands that make data and pages: one module for each stage of `dvc.yaml`.

`reporting` and `demo` hold what the larger ones are made of.
"""
