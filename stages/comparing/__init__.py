"""Which models are both accurate and fast?

`place` says where each lies, and which are on the frontier; `plot` draws them.
"""
