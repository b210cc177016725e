"""The commands that make data and pages: one module for each stage of `dvc.yaml`.

`labelling`, `comparing`, `reporting` and `demo` hold what the larger ones are made of.
"""

from pipeline.processes import interrupts

if interrupts.is_command():
    interrupts.leave_at_once()  # before what a command imports: that takes seconds
