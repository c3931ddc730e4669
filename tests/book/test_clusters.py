"""The recipes of the page on clusters, as far as one machine can try them."""

import re
from types import ModuleType

import pandas as pd
import pytest

from gengap.folders import data, repository

PAGE = (repository() / "book" / "clusters.md").read_text()
SCRIPT, GPU = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["--nthreads 1", "--nworkers 8", "export OMP_NUM_THREADS=1", "#SBATCH -t 04:00:00"]),
        ("GPU", ["--nthreads 1", "--resources GPU=1", "#SBATCH --gres=gpu:1"]),
    ],
)
def test_the_job_that_slurm_is_given_starts_workers_of_one_thread(settings, expected, monkeypatch):
    """Needs dask-jobqueue, but no SLURM."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    if settings == "GPU":
        made = ModuleType("gpu")
        exec(GPU, made.__dict__)
        settings = made.GPU_JOB
    real = jobqueue.SLURMCluster
    monkeypatch.setattr(jobqueue, "SLURMCluster", lambda **own: real(**(own | settings)))
    script = ModuleType("slurm")
    exec(SCRIPT, script.__dict__)
    with script.cluster_of_jobs() as cluster:
        job = cluster.job_script()
    assert all(part in job for part in expected), job


def test_hours_of_the_originals_follow_from_their_rates():
    rates = pd.read_csv(data() / "tables" / "rates.csv")
    of = rates["work"].str.partition(":")[0]
    whole = rates["work"].str.endswith(": in all")
    assert set(of[whole]) == set(of) == {"DEMOGEN", "PGDL, Task 1", "zoo"}
    hours = rates["seconds"] * rates["times"] / rates["cores"] / 3600
    assert rates["hours"][~whole].to_numpy() == pytest.approx(hours[~whole], rel=0.01, abs=0.005)
    sums = rates["hours"][~whole].groupby(of).sum()
    assert rates["hours"][whole].to_numpy() == pytest.approx(sums[of[whole]], abs=0.06)
