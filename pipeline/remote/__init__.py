"""How are files read that lie at a URL: in an object store, on a hub, behind a web server?

`client` is the connection: it bounds every call, tries again, and says what went wrong. `files` asks what a server has
(sizes, names, small files). `cache` keeps whole files on this node, and `cache_settings` says which cache a process
uses.

Imports no other room.
"""
