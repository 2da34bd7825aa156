"""Explore retrieval: choose a threshold, measure quality, compare two retrievers. Frames and plots need the extra `notebook`."""

from ragcore.explore.evaluation import Comparison, Evaluation, compare, evaluate
from ragcore.explore.labels import Labelled, load
from ragcore.explore.sweep import Aim, Sweep, thresholds

__all__ = ["Aim", "Comparison", "Evaluation", "Labelled", "Sweep", "compare", "evaluate", "load", "thresholds"]
