"""Any model, any criterion, a loop of one's own: python examples/plain_torch.py stores/train.zarr

Soft targets are one dense [B, C] tensor, and the true labels, mixed as the views are, another.
"""

import sys

import timm
import torch
from torch.nn.functional import cross_entropy

from student.dataset import StoredViews


def main(store: str, model: str = "resnet18", epochs: int = 2, batch: int = 64, workers: int = 4) -> list[float]:
    """The mean loss of each epoch."""
    losses = []
    with StoredViews(store, batch=batch, answer="soft", tau=3.0, workers=workers) as views:
        classes = views.store.manifest.num_classes
        net = timm.create_model(model, num_classes=classes)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
        for epoch in range(epochs):
            views.set_epoch(epoch)
            total = 0.0
            for seen in views:
                logits = net(seen.pixels)
                soft = cross_entropy(logits / 3.0, seen.soft) * 3.0**2
                loss = 0.5 * cross_entropy(logits, seen.truth(classes)) + 0.5 * soft
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                total += loss.item()
            losses.append(total / len(views))
            print(f"epoch {epoch} | loss {losses[-1]:.4f}")
    return losses


if __name__ == "__main__":
    main(sys.argv[1])
