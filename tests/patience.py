"""How long tests wait for processes."""

from __future__ import annotations

FORKED_S, LATE_S = 0.5, 2.0
"""Nobody speaks to the launcher's store before all are forked from it: a fork while its thread works may hang. Rank 1
comes later the second time: what it left in the store is there to be taken for its own"""
