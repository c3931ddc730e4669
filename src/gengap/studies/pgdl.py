"""The public record of the PGDL competition, scored again: real measures on its public tasks.

What became of the competition's claims, and the competition run again on other networks.
"""

import re

import pandas as pd

from gengap import folders
from gengap.collections.participants import read_participants
from gengap.errors import GengapError
from gengap.evaluation.baselines import TRAIN_ACCURACY, TRAIN_LOSS, added_value_table
from gengap.evaluation.judgement import judged
from gengap.evaluation.ranking import goodness_of, ranks_of
from gengap.evaluation.tasks import official_task
from gengap.studies.claims import UNTESTED

OFFICIAL = ("cmi", "kendall_tau", "granulated_tau", "pearson")  # scores on the competition's tasks
# Tasks 1 and 2 were public, 4 and 5 ranked submissions while it ran, 6 to 9 decided it.
PHASES = {"public": (1, 2), "phase one": (4, 5), "phase two": (6, 7, 8, 9)}
TASK = re.compile(r"task(\d+)")
WINNER = "davies_bouldin_mixup"


def official_scores(values: pd.DataFrame, index: pd.DataFrame, **options) -> pd.DataFrame:
    """Scores on the competition's tasks by its own rules, and of hyper-parameters alone.

    values, index and options as for `judged`, whose columns it returns, of the scores OFFICIAL.
    """
    found = judged(values, index, scores=OFFICIAL, task=official_task, **options)
    shown = ~found["measure"].isin([TRAIN_ACCURACY, TRAIN_LOSS])
    return found[shown].reset_index(drop=True)


def competition(
    values: pd.DataFrame, index: pd.DataFrame, *, samples: int = 200, seed: int = 0
) -> pd.DataFrame:
    """The competition run again: each measure's mean CMI over the tasks of each of its phases.

    values, index: as for `judged`; families whose names begin with the number of a task of PHASES
    (task1_v4 is Task 1). Returns a row per phase that has all its tasks, and measure that has a
    score in each of them: phase, measure, score (mean CMI, a fraction), rank (1 the best), low and
    high (2.5 and 97.5 percentiles of the rank over bootstraps of the networks of each task, drawn
    independently).

    Raises: GengapError for two families of one task.
    Source: Jiang et al. 2021, whose final score is the mean over Tasks 6 to 9.
    """
    found = goodness_of(values, index, "cmi", samples=samples, seed=seed, task=official_task)
    of_task = {}
    for name, scores in found.items():
        if match := TASK.match(name):
            if int(match[1]) in of_task:
                raise GengapError(f"{name} is a second Task {match[1]}; select one of them")
            of_task[int(match[1])] = scores
    rows = []
    for phase, tasks in PHASES.items():
        if not of_task.keys() >= set(tasks):
            continue
        total = sum(of_task[task] for task in tasks).dropna(axis=1) / len(tasks)
        scores = total.iloc[0].to_numpy()
        rows.append(ranks_of(total).assign(phase=phase, score=scores))
    columns = ["phase", "measure", "score", "rank", "low", "high"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def published_phases(reports: pd.DataFrame) -> pd.Series:
    """Mean published score (CMI times 100), by phase and measure, of those with all its tasks.

    reports: `pgdl_scores` as `reported` reads it; rows without a name of this project are left out.
    """
    task = reports["task"].str.extract(TASK, expand=False).astype(int)
    wide = reports.assign(task=task).pivot_table("score", "name", "task")
    means = {phase: wide[[*tasks]].mean(axis=1, skipna=False) for phase, tasks in PHASES.items()}
    return pd.concat(means, names=["phase", "measure"]).dropna()


def beside_published(rerun: pd.DataFrame, published: pd.Series) -> pd.DataFrame:
    """`competition` by phase and measure, for readers: published, here (times 100), rank, its text.

    published: of `published_phases`.
    """
    ends = rerun[["rank", "low", "high"]].to_numpy()
    texts = [f"{rank:.0f} ({low:.0f} to {high:.0f})" for rank, low, high in ends]
    shown = rerun.assign(here=100 * rerun["score"], **{"rank and interval": texts})
    return shown.set_index(["phase", "measure"]).assign(published=published)


def claims(beside: pd.DataFrame, entrants: list[str], published: pd.Series) -> pd.DataFrame:
    """What the competition's record claims, and what became of it: a row per claim.

    beside: of `beside_published`; entrants: the measures that took part; published: of
    `published_phases`. A claim about who leads holds where the whole interval of the rank agrees
    with it, fails where the whole interval contradicts it, and depends on the networks otherwise.
    Where a phase lacks a task, or a measure its values, it is not tested.
    """
    first = published["public"].reindex(entrants).idxmax()
    ranks = beside["rank"].unstack("phase").reindex(columns=[*PHASES])
    kit = ["distance_from_initialization", "jacobian_norm", "sharpness"]
    leader, best = _first(ranks["public"]), _first(ranks["phase one"].reindex(kit))
    kits = f"best of three: {published['phase one'][kit].max():.1f}"
    fall = f"{first}: {published['public', first]:.1f}, then {published['phase one', first]:.1f}"
    won = f"{WINNER}: {published['phase two', WINNER]:.1f}"
    rows = [
        ("The leader of Tasks 1 and 2 does not lead Tasks 4 and 5", fall, "phase one", leader, 0),
        ("The winner leads Tasks 6 to 9", won, "phase two", WINNER, 1),
        ("The kit's own baselines do not lead Tasks 4 and 5", kits, "phase one", best, 0),
    ]
    table = pd.DataFrame([(*row[:2], *_verdict(beside, *row[2:])) for row in rows])
    table = table.set_axis(["claim", "published", "here", "rank here", "verdict"], axis=1)
    return table.set_index("claim").assign(**{"shown in": "The competition, run again"})


def _first(ranks: pd.Series) -> str:
    """The measure with the least rank; empty where none has one."""
    return ranks.idxmin() if ranks.notna().any() else ""


def _verdict(beside, phase, measure, leads) -> tuple[str, str, str]:
    if (phase, measure) not in beside.index:
        return "not at hand", "none", UNTESTED
    found, verdict = beside.loc[(phase, measure)], "depends"
    if found["high"] == 1 or found["low"] > 1:
        verdict = "holds" if leads == (found["high"] == 1) else "fails"
    return f"{measure}: {found['here']:.1f}", found["rank and interval"], verdict


def by_model(table: pd.DataFrame) -> pd.DataFrame:
    """A measure table's values by model_id, a column for each measure."""
    return table.pivot(index="model_id", columns="measure", values="value")


def participants_scores() -> pd.DataFrame:
    """Our scores of the participants' measures, and of the baseline of hyper-parameters alone.

    As `official_scores` (1,000 permutations, 200 bootstraps, seed 0) gives them, sorted by task,
    measure and score.
    """
    table, index, _ = read_participants()
    scores = official_scores(by_model(table), index)
    return scores.sort_values(["family", "measure", "score"], ignore_index=True)


def participants_added_value() -> pd.DataFrame:
    """What each of the participants' measures adds to the hyper-parameters alone.

    The columns of `added_value_table` (1,000 bootstraps, seed 0), a row per task and measure,
    sorted by them.
    """
    table, index, _ = read_participants()
    gains = added_value_table(by_model(table), index)
    return gains.sort_values(["family", "measure"], ignore_index=True)


def measure_costs() -> pd.DataFrame:
    """What each measure costs on the largest networks of two replica tasks.

    Columns family, measure, seconds, peak_mib (of the whole process, MiB), threads, processor and
    others, as `tests/benchmarks/pgdl_measures.py` wrote them.
    """
    return pd.read_csv(folders.data() / "tables" / "pgdl_costs.csv")
