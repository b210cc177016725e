"""Lightning, with a DataLoader whose workers draw: python examples/lightning_module.py stores/train.zarr"""

import sys

import lightning
import timm
import torch
from torch.utils.data import DataLoader

from student.dataset import StoredViews


class Distilled(lightning.LightningModule):
    """A classifier that learns the teacher's class."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, seen: tuple) -> torch.Tensor:
        """The loss of one batch."""
        return torch.nn.functional.cross_entropy(self.net(seen.pixels), seen.argmax)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW, as it is."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(store: str, model: str = "resnet18", batch: int = 64, workers: int = 4, **options: object) -> int:
    """How many steps were made; without `set_epoch` an epoch that was given is followed by the next."""
    views = StoredViews(store, batch=batch)
    net = timm.create_model(model, num_classes=views.store.manifest.num_classes)
    trainer = lightning.Trainer(max_epochs=2, **options)
    trainer.fit(Distilled(net), DataLoader(views, batch_size=None, num_workers=workers))
    return trainer.global_step


if __name__ == "__main__":
    main(sys.argv[1])
