"""The book's figures in one style.

Each function takes plain data and returns the Figure; it puts no number into a title.
"""

from gengap.book.figures.plots import (
    accuracy_histograms,
    gap_histograms,
    importance_by_layer,
    learning_curve,
    margin_densities,
    phase_slopes,
    probe_curves,
    random_score_histograms,
    regressions,
    score_heat_map,
    scores_against_chance,
    signed_heat_map,
    transfer_matrix,
)
from gengap.book.figures.points import (
    measure_against_gap,
    predicted_against_true,
    predicted_gaps,
    probed_epochs,
    train_against_test,
)
from gengap.book.figures.style import COLOURS, NAMES, WIDTH, short_name, use_style
