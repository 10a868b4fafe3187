"""Images in, batches out: `load_data(spec)` gives seeded train, calibration and test splits."""

from edgeopt.data.data import Batch, Data, Source, Split
from edgeopt.data.load import load_data
from edgeopt.data.preprocess import normalize
from edgeopt.data.spec import DataSpec

__all__ = ["Batch", "Data", "DataSpec", "Source", "Split", "load_data", "normalize"]
