"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Root = Annotated[
    Path | None,
    typer.Option(help="The collection's folder (the embedded replica).", readable=False),
]
Query = Annotated[
    str | None, typer.Option(help="Only the models for which this pandas query holds.")
]
Csv = Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Write the rows there as well.")]
Device = Annotated[str, typer.Option(help="Where to compute, as PyTorch names it: cpu, cuda.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes of one thread on a CPU (the number of cores).")
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="A Dask cluster in place of processes here: tcp://127.0.0.1:8786."
    ),
]
Plan = Annotated[
    bool,
    typer.Option(
        "--plan", help="Only tell what is missing and how long it would take, by three models."
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", help="Begin also what takes more than an hour of computation.")
]
