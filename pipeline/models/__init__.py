"""What holds for any network, teacher or student: its weights, its device, its memory?

`weights` reads files of weights as data, never as code. `outline` makes a network of shapes alone, no larger than its
weights. `device` chooses device and number format. `stream` is how a device is handed its work. `out_of_memory` turns a
lack of memory into advice.

Imports no other room.
"""
