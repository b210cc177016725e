"""Which models are both accurate and fast?

`place` says where each lies, and which of them are on the frontier; `plot` draws it.
"""
