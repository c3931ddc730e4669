"""The competition's score of 96 networks against the literal program of the tests, and its null.

Run: python tests/benchmarks/cmi.py [--permutations 1000]. A made-up task with the grid of Task 1:
seven hyper-parameters, one of a single value. Both score the same measures from the same two JSON
objects; preparing the task is counted. One thread: set OMP_NUM_THREADS=1.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from gengap.evaluation.scores import cmi, conditional_mutual_information, random_scores
from gengap.evaluation.tasks import read_task

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_scores import grid, literal_score, predictions

SIZES = (1, 2, 2, 2, 2, 2, 3)


def seconds(function, *arguments, repeats=7):
    """The least of some runs, and what it returned."""
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = function(*arguments)
        spent.append(time.perf_counter() - start)
    return min(spent), found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--permutations", type=int, default=1000)
    permutations = parser.parse_args().permutations
    generator = np.random.default_rng(0)
    gap, measure = generator.normal(size=(2, 96))
    specs, given = grid(*SIZES, gap=gap), predictions(measure)
    task = read_task(specs)

    literal, expected = seconds(literal_score, given, specs)
    whole, found = seconds(conditional_mutual_information, given, specs)
    prepare = seconds(lambda: read_task(specs).conditions)[0]
    once = seconds(cmi, measure, task)[0]
    null = seconds(lambda: random_scores(task, draws=permutations), repeats=1)[0]
    print(f"literal program           {1000 * literal:9.1f} ms a score")
    print(f"from the JSON objects     {1000 * whole:9.1f} ms, {literal / whole:.0f} times as fast")
    print(f"  of it the preparation   {1000 * prepare:9.1f} ms")
    print(f"one measure, prepared     {1000 * once:9.1f} ms, {literal / once:.0f} times as fast")
    each = null / permutations
    times = literal / each
    print(f"{permutations} permutations        {null:9.2f} s, {times:.0f} times as fast a score")
    print(f"difference of the scores  {abs(found - expected):9.1e}")


if __name__ == "__main__":
    main()
