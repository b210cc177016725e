"""On what was a store made? Versions and hardware, recorded so that a drift can be traced; they decide nothing."""

from __future__ import annotations

import platform

from pipeline.processes.machine import version

_LIBRARIES = (
    *("numpy", "opencv-python-headless", "pillow", "simplejpeg", "timm"),
    *("torch", "torchvision", "numcodecs", "zarr"),
)


def describe_environment() -> dict[str, str]:
    """The machine and the versions of the libraries that decide pixels and logits, by name, as texts."""
    import torch  # here, because only a process that makes a store needs it

    found = {name: version(name) for name in _LIBRARIES}
    found["python"] = platform.python_version()
    found["machine"] = f"{platform.system()} {platform.machine()}"
    found["cpu"] = torch.backends.cpu.get_cpu_capability()
    found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return found
