"""The command line: ``distill COMMAND``, each command one of `stages` or `student`, loaded when it is asked for.

`distill.commands` is the table of them. This package stands on top and nothing imports it.
"""

__version__ = "0.2.0"

from pipeline.processes import interrupts

if interrupts.is_command():
    interrupts.leave_at_once()  # before click, and before what a command imports: that takes seconds
