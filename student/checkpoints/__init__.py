"""What does a run leave behind, and how is it read again?

`run_folder` says what lies where in a run's folder, `checkpoint` writes and reads files that prove themselves,
`background` writes them while training goes on, `contents` says what may stand in one, `trained` gives the student in
one, `starting_weights` begins a new student from one, and `flags` are those of the commands that read one.

Imports `network`.
"""
