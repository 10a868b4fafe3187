"""Make `edgeopt/data/digits.npz` from the copy of the UCI digits that scikit-learn ships.

    python -m pip install scikit-learn
    python benchmarks/make_digits.py

The split is fixed here: a test set that moved with the user's seed would make the accuracies of two runs
incomparable.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TARGET = Path(__file__).resolve().parent.parent / "edgeopt" / "data" / "digits.npz"
TEST_PER_CLASS = 36
SEED = 0
ATTRIBUTION = (
    "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, "
    "1998, https://doi.org/10.24432/C50P49, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). "
    "Taken from scikit-learn's load_digits (the 1,797 scans of UCI's test file); pixels unchanged, stored as "
    "uint8; a stratified test split was drawn."
)


def choose_test(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Boolean mask of the test scans: the same number of every digit, drawn once."""
    rng = np.random.default_rng(SEED)
    chosen = [rng.permutation(np.flatnonzero(labels == digit))[:TEST_PER_CLASS] for digit in range(10)]
    mask = np.zeros(len(labels), bool)
    mask[np.concatenate(chosen)] = True
    test = {image.tobytes() for image in images[mask]}
    assert not any(image.tobytes() in test for image in images[~mask]), "a scan lies on both sides"
    return mask


def main() -> None:
    bunch = load_digits()
    images = bunch.images.astype(np.uint8)
    labels = bunch.target.astype(np.uint8)
    assert (images == bunch.images).all()
    assert images.max() == 16
    np.savez_compressed(
        TARGET,
        images=images,
        labels=labels,
        test=choose_test(images, labels),
        attribution=np.array(ATTRIBUTION),
    )
    print(f"{TARGET}: {len(images)} scans, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
