"""Hugging Face's Trainer, whose data loader is replaced by one over a store: python examples/hf_trainer.py STORE"""

import sys

import timm
import torch
from torch.nn.functional import kl_div, log_softmax
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from student.dataset import StoredViews
from student.feed.view_batch import ViewBatch

TAU = 3.0


class Resume(TrainerCallback):
    """Puts the views where the trainer's checkpoint was, so that none are drawn to be skipped."""

    def on_train_begin(self, args: TrainingArguments, state: object, _control: object, **given: object) -> None:
        """Once, before any views are asked for."""
        views = given["train_dataloader"].dataset
        epoch, step = divmod(state.global_step * args.gradient_accumulation_steps, len(views))
        views.set_epoch(epoch)
        views.load_state_dict({**views.state_dict(), "step": step})


class Distiller(Trainer):
    """Takes whole batches from the store, and the teacher's soft targets as the loss."""

    def get_train_dataloader(self) -> DataLoader:
        """Views come as batches, so nothing is collated."""
        asked = {"batch_size": None, "num_workers": self.args.dataloader_num_workers}
        return DataLoader(self.train_dataset, collate_fn=ViewBatch._asdict, **asked)

    def compute_loss(self, model: torch.nn.Module, inputs: dict, **_: object) -> torch.Tensor:
        """The divergence from the teacher."""
        student = log_softmax(model(inputs["pixels"]) / TAU, -1)
        return kl_div(student, inputs["soft"], reduction="batchmean") * TAU**2


def main(store: str, out: str = "runs/hf", model: str = "resnet18", batch: int = 64, **options: object) -> float:
    """The mean loss; ``resume`` is a checkpoint of the trainer's, everything else an argument of its."""
    views, resume = StoredViews(store, batch=batch, answer="soft", tau=TAU), options.pop("resume", None)
    net = timm.create_model(model, num_classes=views.store.manifest.num_classes)
    arguments = TrainingArguments(out, ignore_data_skip=True, **{"num_train_epochs": 2, "report_to": [], **options})
    trainer = Distiller(net, arguments, train_dataset=views, callbacks=[Resume()])
    return float(trainer.train(resume).training_loss)


if __name__ == "__main__":
    main(sys.argv[1])
