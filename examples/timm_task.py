"""timm's own distillation task, with a store in the teacher's place: python examples/timm_task.py stores/train.zarr"""

import sys
from collections.abc import Iterator

import timm
import torch
from timm.task import TokenDistillationTask

from student.dataset import StoredViews


class Stored(torch.nn.Module):
    """Answers with what the store said about the views that are being trained on; no network runs."""

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        """The logits of the batch."""
        return self.logits


def main(store: str, net: torch.nn.Module | None = None, batch: int = 64, workers: int = 4) -> Iterator[float]:
    """The loss of each step of an epoch."""
    teacher = Stored()
    with StoredViews(store, batch=batch, answer="dense", workers=workers) as views:
        classes = views.store.manifest.num_classes
        side = views.store.manifest.recipe.image_size
        net = net or timm.create_model("deit_tiny_distilled_patch16_224", num_classes=classes, img_size=side)
        task = TokenDistillationTask(net, teacher, torch.nn.CrossEntropyLoss(), temperature=3.0, task_loss_weight=0.5)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
        for seen in views:
            teacher.logits = seen.logits
            optimizer.zero_grad()
            loss = task(seen.pixels, seen.truth(classes))["loss"]
            loss.backward()
            optimizer.step()
            yield loss.item()


if __name__ == "__main__":
    print(*main(sys.argv[1]))
