"""How is a store filled, by one process or by many?

`first_answers` asks the teacher about some views before any label is stored. `tasks` hands out what is missing,
`writers` opens the store in the role that a process has, `fill` renders, asks the teacher and commits, `coding` says
where logits become labels. `generations` sets a store of another contract aside. `cost` says beforehand what it will
take, `store_status` how far it is, and `environment` on what the store is made.

Imports all rooms that take part.
"""
