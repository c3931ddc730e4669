"""Which cases of a costly contract are tried: all of them would take most of the tests' time.

GENGAP_SEED (0 by default) draws one; "all" tries each. The scheduled run of CI gives its date, so
that one after the other all are tried.
"""

import os
import random
from collections.abc import Iterable

KILLED = "a killed training", ["cnnzoo", "pgdl"]  # by one engine, which keeps what is finished

SEED = os.environ.get("GENGAP_SEED", "0")


def drawn(case: str, choices: Iterable[str]) -> list[str]:
    """One of the choices, the same for a case as long as the seed is; all of them if asked for."""
    known = sorted(choices)
    return known if SEED == "all" else [random.Random(f"{SEED} {case}").choice(known)]
