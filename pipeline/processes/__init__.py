"""How do several processes work together, on one machine and on many?

`start` starts them safely, `worker` one that ends with its parent, and `interrupts` has Ctrl-C end one in a line, even
while it still imports. `nameless` is memory that they share. `ordered_map` applies a function to many items in order.
`world` says which process this is among those that a launcher started, and `rendezvous` lets them talk; `machine` says
on what they run.

Imports `remote`, whose connections no fork may carry along.
"""
