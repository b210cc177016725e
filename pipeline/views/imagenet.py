"""Which mean and standard deviation have the pixels of ImageNet, in units of 0 to 1?

Models that say nothing else expect pictures with these statistics; an erased box is filled with noise around them.
"""

from __future__ import annotations

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
