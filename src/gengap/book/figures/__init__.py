"""The book's figures in one style.

Each function takes plain data and returns the Figure; it puts no number into a title.
"""

from gengap.book.figures.accuracies import (
    accuracy_histograms,
    importance_by_layer,
    learning_curve,
    transfer_matrix,
)
from gengap.book.figures.points import (
    measure_against_gap,
    predicted_against_true,
    predicted_gaps,
    probed_epochs,
    train_against_test,
)
from gengap.book.figures.probes import margin_densities, probe_curves, regressions
from gengap.book.figures.scores import (
    gap_histograms,
    phase_slopes,
    random_score_histograms,
    score_heat_map,
    scores_against_chance,
    signed_heat_map,
)
from gengap.book.figures.style import COLOURS, NAMES, WIDTH, short_name, use_style
