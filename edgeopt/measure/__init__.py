"""Measuring: accuracy on the same images in one pass, latencies in turns, and the circumstances of both."""

from edgeopt.measure.accuracy import Outcome, evaluate
from edgeopt.measure.environment import environment
from edgeopt.measure.feeds import one_input
from edgeopt.measure.latency import Latency, time_sessions

__all__ = ["Latency", "Outcome", "environment", "evaluate", "one_input", "time_sessions"]
