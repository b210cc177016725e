"""Lightning, with a DataLoader whose workers draw: python examples/lightning_module.py stores/train.zarr"""

import sys

import lightning
import timm
import torch
from torch.utils.data import DataLoader

from student.dataset import StoredViews


class Distilled(lightning.LightningModule):
    """A classifier that learns the teacher's class."""

    def __init__(self, net: torch.nn.Module, store: str, batch: int, workers: int) -> None:
        super().__init__()
        self.net, self.store, self.batch, self.workers = net, store, batch, workers

    def train_dataloader(self) -> DataLoader:
        """Opened when all processes have met, so that each gets its share. Goes on behind the end of an epoch."""
        views = StoredViews(self.store, batch=self.batch)
        views.set_epoch(self.global_step // len(views))
        return DataLoader(views, batch_size=None, num_workers=self.workers)

    def training_step(self, seen: tuple) -> torch.Tensor:
        """The loss of one batch."""
        return torch.nn.functional.cross_entropy(self.net(seen.pixels), seen.argmax)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW, as it is."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(
    store: str, model: str = "resnet18", batch: int = 64, workers: int = 4, resume: str | None = None, **options: object
) -> int:
    """How many steps were made; an epoch that was given is followed by the next."""
    net = timm.create_model(model, num_classes=StoredViews(store).store.manifest.num_classes)
    trainer = lightning.Trainer(**{"max_epochs": 2, **options})
    trainer.fit(Distilled(net, store, batch, workers), ckpt_path=resume)
    return trainer.global_step


if __name__ == "__main__":
    main(sys.argv[1])
