"""Explore retrieval and answers: choose settings, label questions, measure quality, compare two runs. Frames and plots need the extra `notebook`."""

from ragcore.explore.aims import Aim
from ragcore.explore.answers import Answers, JudgedAnswer
from ragcore.explore.asking import answers
from ragcore.explore.comparison import AnswersComparison, Comparison, compare
from ragcore.explore.evaluation import Evaluation, evaluate
from ragcore.explore.judging import Agreement
from ragcore.explore.labels import Labelled, load, save
from ragcore.explore.sweep import Sweep, thresholds

__all__ = [
    "Agreement",
    "Aim",
    "Answers",
    "AnswersComparison",
    "Comparison",
    "Evaluation",
    "JudgedAnswer",
    "Labelled",
    "Sweep",
    "answers",
    "compare",
    "evaluate",
    "load",
    "save",
    "thresholds",
]
