"""How does a training begin, go on, stop and resume?

`flags` are those of `student.train`, `launch` puts the parts together, `resume` says whether there is something to go
on with, `threads` how many compute, `loop` runs the epochs, `validation` judges between them, on `kept_views`,
`run_log` and `meter` say how it goes, `run_status` how far it is, also to those who look from elsewhere, and `loggers`
tell the trackers that people watch.

Imports every room below.
"""
