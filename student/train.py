"""Train a student from shards and stored labels.

    python -m student.train --logits stores/train.zarr --val-shards 'data/val/*.tar' --out runs/student
    torchrun --nproc-per-node 8 -m student.train --logits stores/train.zarr --out runs/student

The store knows its shards and its recipe, and decides what a view is and how it is mixed; the flags here decide how the
student learns from it. Started again, the command goes on from the last checkpoint, on any number of processes.

Exit status: 0 finished (or it was), 143 stopped by SIGTERM and 130 by SIGINT, both with a checkpoint, 1 an error.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from pipeline import cli
from student import checkpoint
from student.launch import Places, launched
from student.loop import exit_code, fit
from student.loss import KINDS, REDUCTIONS
from student.optimizer import SCHEDULES
from student.ranks import Stop, joined
from student.settings import ATTENTIONS, PRECISIONS, Settings

D = Settings()
