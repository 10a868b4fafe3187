"""The networks and images that benchmarks measure on: torchvision's, with seeded random weights and real statistics.

No weights can be downloaded everywhere, so fidelity is measured on random weights (`torch.manual_seed(0)`) whose
BatchNormalization statistics are cumulative averages over real images: activations then have the ranges, the uneven
channels and the outliers of a real network. vit_b_16's head, which torchvision sets to zero, is drawn from N(0, 0.02).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["NETWORKS", "make_images", "make_network"]

NETWORKS = (
    "mobilenet_v2", "mobilenet_v3_small", "resnet18", "resnet50", "efficientnet_b0", "regnet_y_400mf",
    "shufflenet_v2_x1_0", "convnext_tiny", "vit_b_16", "swin_t",
)  # fmt: skip
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
SIZE = 224


def make_images(folder: Path, work: Path, calibration: int = 256, held_out: int = 128) -> tuple[Path, Path]:
    """float32 [n, 3, 224, 224] from a folder of images by class, the classes in turns: two .npy files.

    Calibration images are the first of each class by name, held-out images the last.
    """
    from PIL import Image

    paths = work / "calibration.npy", work / "heldout.npy"
    if all(path.exists() for path in paths):
        return paths
    files = [sorted(entry.iterdir()) for entry in sorted(folder.iterdir()) if entry.is_dir()]
    first = [files[i % len(files)][i // len(files)] for i in range(calibration)]
    last = [files[i % len(files)][-1 - i // len(files)] for i in range(held_out)]
    for path, part in zip(paths, (first, last), strict=True):
        pixels = [
            np.asarray(Image.open(p).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)) for p in part
        ]
        x = (np.stack(pixels).astype(np.float32) / 255 - MEAN) / STD
        np.save(path, np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    return paths


def make_network(name: str, images: np.ndarray, work: Path) -> Path:
    """`NAME.onnx` in `work`, made once; BatchNormalization is kept as nodes, the batch is dynamic."""
    path = work / f"{name}.onnx"
    if path.exists():
        return path
    import torch
    import torchvision

    from edgeopt.model.export import export_module
    from edgeopt.model.load import save_model

    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(weights=None).eval()
    if name == "vit_b_16":
        torch.nn.init.normal_(net.heads.head.weight, std=0.02)
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for part in torch.from_numpy(images).split(32) if norms else ():
            net(part)
    save_model(export_module(net.eval(), torch.zeros(2, 3, SIZE, SIZE)), path)
    return path
