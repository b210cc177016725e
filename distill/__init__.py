"""The command line: ``distill COMMAND``, each command one of `stages` or `student`, loaded when it is asked for.

`distill.commands` is the table of them. This package stands on top and nothing imports it.
"""

__version__ = "0.2.0"
