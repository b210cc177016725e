"""A WebDataset pipeline of one's own with the teacher in it: python examples/webdataset_pipeline.py STORE TAR…"""

import sys

import torch
import webdataset as wds
from torch.nn.functional import cross_entropy

from student.webdataset import with_teacher


def main(store: str, urls: list[str], workers: int = 4, batch: int = 64) -> tuple[int, float]:
    """How many views one epoch has, and how far the true labels are from the teacher's answers.

    Each pass over the loader gives the next views; ``stage.set_epoch(e)`` says from which epoch on.
    """
    stage = with_teacher(store, answer="soft", tau=1.0)
    split = {"nodesplitter": wds.split_by_node, "workersplitter": wds.split_by_worker}
    shards = wds.WebDataset(urls, shardshuffle=100, empty_check=False, **split)  # a worker may be left without a shard
    pipeline = shards.compose(stage).shuffle(1000).batched(batch)
    loader = wds.WebLoader(pipeline, batch_size=None, num_workers=workers)
    count, total = 0, torch.zeros(())
    for view_BCHW, label_BC, teacher_BC in loader:
        count += len(view_BCHW)
        total += cross_entropy(teacher_BC.log(), label_BC, reduction="sum")
    return count, float(total / count)


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2:]))
