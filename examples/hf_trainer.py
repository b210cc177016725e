"""Hugging Face's Trainer, whose data loader is replaced by one over a store: python examples/hf_trainer.py STORE"""

import sys

import timm
import torch
from torch.nn.functional import kl_div, log_softmax
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from student.dataset import StoredViews

TAU = 3.0


class Distiller(Trainer):
    """Takes whole batches from the store, and the teacher's soft targets as the loss."""

    def get_train_dataloader(self) -> DataLoader:
        """Views come as batches, so nothing is collated."""
        workers = self.args.dataloader_num_workers
        return DataLoader(self.train_dataset, batch_size=None, num_workers=workers, collate_fn=lambda b: b._asdict())

    def compute_loss(self, model: torch.nn.Module, inputs: dict, **_: object) -> torch.Tensor:
        """The divergence from the teacher."""
        student = log_softmax(model(inputs["pixels"]) / TAU, -1)
        return kl_div(student, inputs["soft"], reduction="batchmean") * TAU**2


def main(store: str, out: str = "runs/hf", model: str = "resnet18", workers: int = 4, **options: object) -> float:
    """The mean loss."""
    views = StoredViews(store, batch=64, answer="soft", tau=TAU)
    net = timm.create_model(model, num_classes=views.store.manifest.num_classes)
    arguments = TrainingArguments(out, num_train_epochs=2, dataloader_num_workers=workers, report_to=[], **options)
    return float(Distiller(net, arguments, train_dataset=views).train().training_loss)


if __name__ == "__main__":
    main(sys.argv[1])
