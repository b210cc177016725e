"""The trainer: a student learns from shards and stored labels; the teacher is never needed.

The commands are here (`train`, `evaluate`, `export`, `tokens`, `push`, `status`), and two doors for other people's
trainers: `dataset` gives the views of a store, `webdataset` adds the teacher to a pipeline of their own. Each room
below is one part of the work. From the ground up: `network`, `ranks`, `checkpoints`, `feed`, `learning`, `judging`,
`exporting`, `sharing`, `run`.
"""

from pipeline.processes import interrupts

if interrupts.is_command():
    interrupts.leave_at_once()  # before what a command imports: that takes seconds
