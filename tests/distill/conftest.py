from quarters import classifier, data, split

__all__ = ["classifier", "data", "split"]
