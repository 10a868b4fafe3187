"""Images in, batches out: `load_data(spec)` gives seeded train, calibration and test splits."""

from edgeopt.data.data import Batch, Data, Source, Split

__all__ = ["Batch", "Data", "Source", "Split"]
