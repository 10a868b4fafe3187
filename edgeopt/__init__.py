"""edgeopt: make a trained network fit the place where it will run."""

__version__ = "0.1.0"
