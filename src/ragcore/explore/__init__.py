"""Explore retrieval and answers: choose settings, label questions, measure quality, compare two runs. Frames and plots need the extra `notebook`."""

from ragcore.explore.aims import Aim
from ragcore.explore.asking import answers
from ragcore.explore.combinations import Grid, Setting, grid
from ragcore.explore.comparison import AnswersComparison, Comparison, compare
from ragcore.explore.evaluation import Evaluation, evaluate
from ragcore.explore.judgements import Answers, JudgedAnswer
from ragcore.explore.judging import Agreement
from ragcore.explore.labelling import Pool, Pooled, to_label
from ragcore.explore.labels import Labelled, load, save
from ragcore.explore.sweep import Sweep, thresholds

__all__ = [
    "Agreement",
    "Aim",
    "Answers",
    "AnswersComparison",
    "Comparison",
    "Evaluation",
    "Grid",
    "JudgedAnswer",
    "Labelled",
    "Pool",
    "Pooled",
    "Setting",
    "Sweep",
    "answers",
    "compare",
    "evaluate",
    "grid",
    "load",
    "save",
    "thresholds",
    "to_label",
]
