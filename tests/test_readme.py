"""What the README shows works as it stands."""

import re
import warnings

import pytest

from gengap import folders

TEXT = (folders.repository() / "README.md").read_text()
EXAMPLES = [code for code in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "open_coll" in code]


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs(code, offline, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    for accuracy, recorded in re.findall(r"accuracy (\S+), recorded (\S+)", printed):
        assert float(accuracy) == pytest.approx(float(recorded), abs=1.5e-3)
    assert ("recorded" in code) == ("recorded" in printed)
    assert ("savefig" in code) == bool(list(tmp_path.glob("*.png")))
