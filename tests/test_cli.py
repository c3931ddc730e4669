import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import gengap
from gengap.cli import app
from gengap.cli.chapters import joined_pairs
from gengap.cli.tables import _work
from gengap.collection import COLLECTIONS, default_root
from gengap.evaluation.reliability import reliability_table
from gengap.folders import repository
from gengap.measures import MEASURES
from gengap.replicas import STUDIES
from gengap.tables.details import DETAILS

MODULE = """
from gengap import measure

@measure
def seed(model):
    "Larger seeds, larger gaps. Source: this test."
    return model.record["hp_seed"]
"""


@pytest.fixture
def run(monkeypatch):
    """Runs `gengap` with arguments in this process; its own registry of measures."""
    registry = dict(MEASURES)
    for module in ("gengap.measures", "gengap.submission.measure_file", "gengap.tables.values"):
        monkeypatch.setattr(f"{module}.MEASURES", registry)
    # What these measures do is seen in this process alone.
    monkeypatch.setattr("gengap.tables.engine.SECONDS_ALONE", float("inf"))

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


def one_line(result, exit_code: int = 1) -> str:
    """What the command said on stderr, which must be one line and no traceback."""
    assert result.exit_code == exit_code, result.output
    [line] = [text for text in result.stderr.strip().splitlines() if text.startswith("gengap:")]
    assert "Traceback" not in result.output
    return line


def test_every_command_has_help_with_an_example(run):
    assert run("--help").exit_code == 0
    for command in (
        "list",
        "measure",
        "details",
        "score",
        "score-predictions",
        "run",
        "book",
        "train",
        "fetch",
    ):
        assert f"  {command} " in run("--help").stdout
        assert "Example" in run(command, "--help").stdout


def test_help_needs_neither_pytorch_nor_pandas():
    script = (
        "import sys; from gengap.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert told.stdout.splitlines()[-1] == "[]"


def test_list_tells_families_counts_places_and_what_is_missing(tiny, run):
    (tiny.root / "left").mkdir()
    result = run("list")
    assert result.exit_code == 0
    assert f"collection tiny\n  in {tiny.root}" in result.stdout
    assert re.search(r"  left +4 ", result.stdout) and "  not here: absent\n" in result.stdout
    assert re.search(r"absent +0 +- +absent", run("list", "tiny").stdout)
    assert "no collection 'tinny'; did you mean 'tiny'?" in run("list", "tinny").stderr
    assert "raw_parameter_norm" in result.stdout and "table: none yet" in result.stdout
    run("measure", "tiny", "-m", "raw_parameter_norm")
    assert "table: " + str(tiny.root.parents[1] / "tables" / "tiny.parquet") in run("list").stdout


def test_list_tells_the_reliability_of_each_familys_gap(tiny, run, monkeypatch):
    (tiny.root / "left").mkdir()
    read, counts = type(tiny).read_index, {"train_images": 40, "test_images": 4000}
    monkeypatch.setattr(type(tiny), "read_index", lambda self: read(self).assign(**counts))
    table = reliability_table(gengap.open_collection("tiny").index())
    told = run("list").stdout
    for family, known in table["reliability"].items():
        assert re.search(rf"{family} +4 +{known:.2f}\b", told)


def test_list_tells_what_each_measure_asks_for(run):
    lines = {
        line.split()[0]: line.split()[1:] for line in run("list", "measures").stdout.splitlines()
    }
    assert set(MEASURES) < set(lines)
    assert lines["fisher_rao"] == ["1,000", "yes"] and lines["inverse_margin"] == ["all"]
    assert lines["path_norm"] == ["1"] and lines["parameter_count"] == []


def test_a_plan_adds_what_measures_declare():
    names = ["fisher_rao", "vpm", "davies_bouldin_mixup", "inverse_margin", "path_norm_over_margin"]
    declared = "2,700 + 600 a class + the whole sample images a network at most"
    assert _work(names) == f"{declared}; 1 measures differentiate"
    assert _work(["parameter_count"]) == "no images a network at most; 0 measures differentiate"


def test_list_tells_which_images_are_not_there(tiny, run, tmp_path, monkeypatch):
    monkeypatch.setenv("GENGAP_IMAGES", str(tmp_path / "nowhere"))
    assert "mnist: The image folder" in run("list").stdout
    monkeypatch.delenv("GENGAP_IMAGES")
    monkeypatch.setenv("GENGAP_CACHE", str(tmp_path))
    assert "cifar10: not here; downloaded when first needed" in run("list").stdout


def test_measure_shows_tau_with_the_gap_in_each_family(tiny, run, tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)
    result = run("measure", "tiny", "--module", tmp_path / "mine.py")
    assert result.exit_code == 0, result.output
    index = tiny.index()
    gap = index["train_accuracy"] - index["test_accuracy"]
    for family, rows in index.assign(gap=gap).groupby("family"):
        tau = rows["hp_seed"].corr(rows["gap"], method="kendall")
        assert any(
            line.split()[:3] == [family, "seed", "4"] and line.split()[-1] == f"{tau:.4g}"
            for line in result.stdout.splitlines()
        )
    assert "raw_parameter_norm" not in result.stdout  # with --module alone, only the user's own


@pytest.fixture
def second(tiny, monkeypatch):
    """The folder of a second embedded collection, named after `tiny`, with the same networks."""
    module = importlib.import_module(COLLECTIONS["tiny"].partition(":")[0])

    class Second(module.TinyCollection):
        name = "second"

    monkeypatch.setattr(module, "Second", Second, raising=False)
    monkeypatch.setitem(COLLECTIONS, "second", f"{module.__name__}:Second")
    default_root("second").mkdir(parents=True)
    return default_root("second")


def test_measure_all_takes_every_embedded_collection_and_resumes(tiny, second, run):
    computed = []

    @gengap.measure
    def stopped_once(model) -> float:
        computed.append(model.record["model_id"])
        if len(computed) == 11:
            raise KeyboardInterrupt
        return 1.0

    command = ["measure", "all", "-m", "stopped_once"]
    tables = tiny.root.parents[1] / "tables"
    assert "2 of 8 values are computed and kept in" in one_line(run(*command), 130)
    result = run(*command)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    ends = [place for place, line in enumerate(lines) if line.startswith("table: ")]
    assert [lines[end] for end in ends] == [
        f"table: {tables / f'{name}.parquet'}" for name in ("tiny", "second")
    ]
    assert len(computed) == 8 + 3 + 6  # the rest of the second collection, and nothing twice
    for name in ("tiny", "second"):
        assert len(pd.read_parquet(tables / f"{name}.parquet")) == 8
    assert run(*command).exit_code == 0 and len(computed) == 17


def test_measure_all_leaves_out_what_has_no_replica(tiny, second, run):
    second.rmdir()
    result = run("measure", "all", "-m", "raw_parameter_norm")
    assert result.exit_code == 0, result.output
    assert [line for line in result.stdout.splitlines() if line.startswith("table: ")] == [
        f"table: {tiny.root.parents[1] / 'tables' / 'tiny.parquet'}"
    ]
    tiny.root.rmdir()
    assert "no collection is embedded in" in one_line(run("measure", "all"))


@pytest.mark.parametrize("collection", STUDIES)
def test_training_ends_with_the_hallmarks_and_the_table_of_what_lies_there(
    collection, run, monkeypatch, tmp_path
):
    trained = []
    monkeypatch.setattr("gengap.replicas.run.train", lambda run, **_: trained.append(run.family))
    monkeypatch.setattr("gengap.replicas.run.check_images", list)
    (tmp_path / collection).symlink_to(default_root(collection))
    result = run("train", collection, "--out", tmp_path / collection)
    assert result.exit_code == 0, result.output
    *families, said, table, head = result.stdout.splitlines()[: len(trained) + 3]
    rows = result.stdout.splitlines()[len(trained) + 3 :]
    assert families == [f"{collection}: {family}" for family in trained]
    assert said.startswith("trained: ") and head.split() == ["hallmark", "wanted", "found", "met"]
    assert rows and all(row.endswith(("True", "False")) for row in rows)
    index = gengap.open_collection(collection).index()
    pd.testing.assert_frame_equal(pd.read_parquet(table.removeprefix("index: ")), index)


def test_training_beside_an_unfinished_family_ends_well(run, monkeypatch, tmp_path):
    def train(run, **_):
        (run.out / "input_data" / "task1_fashion_mnist").mkdir(parents=True)

    monkeypatch.setattr("gengap.replicas.run.train", train)
    monkeypatch.setattr("gengap.replicas.run.check_images", list)
    command = ["train", "pgdl", "--dataset", "task2_fashion_mnist", "--out", tmp_path / "pgdl"]
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "no hallmarks yet: " in result.stdout and "model_configs.json" in result.stdout


def test_measure_counts_what_is_missing_and_why(tiny, run):
    result = run("measure", "tiny", "-m", "inverse_margin")
    assert "4 values are missing: the family right has no images here" in result.stdout
    assert "--retry" in result.stdout


def test_values_are_written_as_csv_on_request(tiny, run, tmp_path):
    result = run("measure", "tiny", "-m", "raw_parameter_norm", "--csv", tmp_path / "values.csv")
    assert result.exit_code == 0, result.output
    assert f"csv: {tmp_path / 'values.csv'}" in result.stdout
    rows = pd.read_csv(tmp_path / "values.csv")
    assert list(rows["model_id"]) == list(tiny.index()["model_id"])
    assert rows["value"].notna().all() and set(rows["measure"]) == {"raw_parameter_norm"}


def test_the_version_is_told(run):
    assert run("--version").stdout == f"gengap {metadata.version('gengap')}\n"


def test_details_are_kept_and_written_as_csv_on_request(tiny, run, tmp_path):
    with pytest.warns(UserWarning, match="4 models have no rows"):
        result = run("details", "tiny", "margins", "--csv", tmp_path / "rows.csv")
    assert result.exit_code == 0, result.output
    assert "160 rows of 4 models" in result.stdout
    rows = pd.read_csv(tmp_path / "rows.csv", keep_default_na=False)
    assert len(rows) == 160 and set(rows["stage"]) == {"inputs", "h1", "activation", "logits"}
    table = tiny.root.parents[1] / "tables" / "tiny.margins.parquet"
    assert f"table: {table}" in result.stdout and table.exists()
    result = run("details", "tiny", "margins", "--query", "model_id == 'left/0'")
    assert "40 rows of 1 models" in result.stdout


def test_details_help_names_every_detail(run):
    assert all(f"{detail}: " in run("details", "--help").stdout for detail in DETAILS)


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr("gengap.submission.values.results_folder", lambda: tmp_path / "scores")


def test_a_measure_of_ones_own_gets_its_place_and_the_data_stay_as_they_are(
    run, results, data_folder, tmp_path
):
    (tmp_path / "replicas").symlink_to(repository() / "data" / "replicas")
    (tmp_path / "tables").mkdir()
    shutil.copy(repository() / "data" / "tables" / "demogen.parquet", tmp_path / "tables")
    (tmp_path / "own_norm.py").write_text(
        "import gengap\n\n@gengap.measure\ndef own_norm(model):\n    print('noise')\n"
        "    return sum(float(part.detach().abs().sum()) for part in model.network.parameters())\n"
    )
    tables = {file: file.read_bytes() for file in (tmp_path / "tables").iterdir()}
    family = "family == 'RESNET_FASHION_MNIST'"
    command = ["score", tmp_path / "own_norm.py", "-c", "demogen", "--query", family]
    result = run(*command, "--html", tmp_path / "place.html")
    assert result.exit_code == 0, result.output
    heads, row, last = result.stdout.splitlines()
    assert heads.split()[:5] == ["collection", "family", "models", "reliability", "score"]
    assert row.split()[:3] == ["demogen", "RESNET_FASHION_MNIST", "64"]
    assert 0 < float(row.split()[3]) < 1 and row.split()[4] == "kendall_tau"
    assert re.search(r" \d+ of \d+ ", row)
    assert last == f"page: {tmp_path / 'place.html'}"
    assert "own_norm" in (tmp_path / "place.html").read_text()
    assert run(*command).stdout.splitlines() == [heads, row]  # from what was kept
    spearman = run(*command, "--by", "spearman").stdout
    assert " spearman " in spearman and "kendall_tau" not in spearman
    assert {file: file.read_bytes() for file in (tmp_path / "tables").iterdir()} == tables


def test_predictions_of_a_family_get_their_place(run, results, tmp_path):
    index = gengap.open_collection("pgdl").select("family == 'task8_fashion_mnist'").index()
    given = dict(zip(index["model_id"].str.rpartition("/")[2], 1 - index["test_accuracy"]))
    given["model_0"] = None
    (tmp_path / "mine.predict").write_text(json.dumps(given))
    result = run("score", tmp_path / "mine.predict", "-c", "pgdl")
    assert result.exit_code == 1 and "fits several families of pgdl" in result.output
    query = "family == 'task8_fashion_mnist'"
    result = run("score", tmp_path / "mine.predict", "-c", "pgdl", "--query", query)
    assert result.exit_code == 0, result.output
    assert "1 of 32 models have no value" in result.stdout
    assert re.search(r"task8_fashion_mnist +31 of 32 +0\.\d+ +kendall_tau", result.stdout)


MISTAKES = {
    "no detail 'margin'": ["details", "tiny", "margin"],
    "no score 'tau'": ["score", __file__, "-c", "tiny", "--by", "tau"],
    "--root is the folder of one collection": ["score", __file__, "--root", "."],
    "no model of tiny fits": ["score", __file__, "-c", "tiny", "--query", "epoch == 7"],
    "measure all takes all models": ["measure", "all", "--query", "epoch == 1"],
    "no collection 'tini'; did you mean 'tiny'?": ["measure", "tini"],
    "leave out --query, --root and --csv": ["measure", "all", "--csv", "x.csv"],
    "no measure 'norm'": ["measure", "tiny", "-m", "norm"],
    "query 'famly == 1' is not understood": ["measure", "tiny", "--query", "famly == 1"],
    "holds no model": ["measure", "tiny", "--query", "epoch == 7"],
    "no folder that can be read": ["measure", "tiny", "--root", "/nowhere/at/all"],
    "device 'gpu' cannot be used here": ["measure", "tiny", "--device", "gpu"],
    "there is no chapter 99-none": ["run", "99-none"],
    "-p seed lacks its value": ["run", "-p", "seed"],
    "the collection 'x' cannot be trained": ["train", "x", "--dataset", "mnist"],
    "is a file; name a folder": ["train", "pgdl", "--out", __file__],
    "leave out --dataset": ["train", "all", "--dataset", "mnist"],
    "no family 'svhn' can be trained; there are: cifar10, fashion_mnist, mnist": [
        "train",
        "cnnzoo",
        "--dataset",
        "svhn",
    ],
    "the collection 'x' cannot be downloaded": ["fetch", "x"],
    "device 'cuda:99' cannot": ["train", "cnnzoo", "--dataset", "mnist", "--device", "cuda:99"],
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_a_mistake_is_answered_in_one_line(tiny, run, sentence):
    assert sentence in one_line(run(*MISTAKES[sentence]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", "registers no measure"),
        ("import nothing", "ModuleNotFoundError: No module named 'nothing', in .*mine.py line 1"),
        ("def f(:", "SyntaxError"),
        (MODULE.replace("seed(", "raw_parameter_norm("), "'raw_parameter_norm' exists already"),
    ],
)
def test_a_mistake_in_the_users_file_is_answered_in_one_line(tiny, run, tmp_path, text, sentence):
    (tmp_path / "mine.py").write_text(text)
    result = run("measure", "tiny", "--module", tmp_path / "mine.py")
    assert re.search(sentence, one_line(result))


def test_values_that_failed_are_counted_at_the_end_and_the_others_are_there(tiny, run, tmp_path):
    (tmp_path / "mine.py").write_text(MODULE.replace("hp_seed", "hp_none"))
    result = run("measure", "tiny", "-m", "seed", "--module", tmp_path / "mine.py")
    assert result.exit_code == 1
    assert "8 values are missing: failed: KeyError: 'hp_none' (mine.py line 7)" in result.stdout
    last = "8 values of 8 models failed, as told above; the others are kept"
    assert result.stderr.splitlines()[-1] == last


def test_a_plan_tells_what_is_missing_and_computes_three_models(tiny, run):
    plan = ["measure", "tiny", "-m", "path_norm", "-m", "vc_dimension", "--plan"]
    result = run(*plan)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "tiny: 5 models lack values"
    assert re.fullmatch(r"  time  about 0\.0\d core-hours, by three models .*", lines[1])
    assert lines[2] == "  disk  0.0 MB at most, for 2 measures"
    assert lines[3] == "  work  1 images a network at most; 0 measures differentiate"
    assert run("measure", "tiny", "-m", "path_norm", "-m", "vc_dimension").exit_code == 0
    assert run(*plan).stdout == "tiny: nothing is missing\n"
    assert run("details", "tiny", "spectra", "--plan").stdout.startswith("tiny: 5 models lack")


def test_what_takes_more_than_an_hour_asks_for_yes(tiny, run, monkeypatch):
    monkeypatch.setattr("gengap.cli.tables.MINUTES", 1e-9)
    refused = one_line(run("measure", "tiny", "-m", "path_norm"))
    assert "5 models of tiny lack values" in refused
    assert "--yes" in refused
    assert run("measure", "tiny", "-m", "path_norm", "--yes").exit_code == 0


def test_two_runs_of_a_chapter_are_compared(run):
    chapter = repository() / "book" / "chapters" / "04-genprob.ipynb"
    result = run("compare", chapter, chapter)
    assert (result.exit_code, result.stdout) == (0, "no table differs\n")


def test_an_interruption_ends_with_one_line_and_the_count_of_what_is_kept(tiny, run):
    calls = []

    @gengap.measure
    def pressed(model) -> float:
        calls.append(model)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return 1.0

    result = run("measure", "tiny", "-m", "pressed")
    assert "interrupted: 3 of 8 values are computed and kept in" in one_line(result, 130)


def test_predictions_are_scored_as_a_fraction_and_times_a_hundred(run, tmp_path):
    configs, predictions = grid_of_eight(tmp_path)
    result = run("score-predictions", predictions, configs)
    assert result.exit_code == 0, result.output
    score, hundred, random = re.fullmatch(
        r"(\S+) \(x 100: (\S+)\)\nrandom measures: (\S+) on average, one in 20 above \S+\n",
        result.stdout,
    ).groups()
    assert float(score) == pytest.approx(1, abs=1e-10)
    assert float(hundred) == pytest.approx(100, abs=1e-8)
    assert 0 < float(random) < 0.5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda given: given.pop("model_2"), "1 models have no prediction (model_2)"),
        (lambda given: given.update(model_9=1), "1 models are not of this task (model_9)"),
        (
            lambda given: given.update(model_2="EXCEEDED"),
            "for model_2 is 'EXCEEDED'; give a number",
        ),
    ],
)
def test_predictions_that_do_not_fit_are_answered_in_one_line(run, tmp_path, change, sentence):
    configs, file = grid_of_eight(tmp_path)
    predictions = json.loads(file.read_text())
    change(predictions)
    file.write_text(json.dumps(predictions))
    assert sentence in one_line(run("score-predictions", file, configs))
    assert "is missing" in one_line(run("score-predictions", tmp_path / "none", configs))


def grid_of_eight(folder: Path) -> tuple[Path, Path]:
    """Configurations of eight networks on a grid of two by two by two, and a perfect prediction."""
    gaps = (0.3, 0.1, 0.4, 0.15, 0.9, 0.2, 0.6, 0.5)
    specs = {}
    for model, gap in enumerate(gaps):
        bits = {"width": model >> 2, "depth": model >> 1 & 1, "bs": model & 1}
        hparams = {
            name: {"possible_values": [0, 1], "current_value": bit} for name, bit in bits.items()
        }
        specs[str(model)] = {"hparams": hparams, "metrics": {"train_acc": 1, "test_acc": 1 - gap}}
    predictions = {f"model_{model}": gap for model, gap in enumerate(gaps)}
    for name, content in (("model_configs.json", specs), ("task.predict", predictions)):
        (folder / name).write_text(json.dumps(content))
    return folder / "model_configs.json", folder / "task.predict"


def test_parameters_are_pairs_read_as_python_writes_them(run, monkeypatch):
    taken = {}
    monkeypatch.setattr(
        "gengap.book.chapters.run_chapters",
        lambda names, **settings: taken.update(settings, names=names) or [Path("done.ipynb")],
    )
    result = run(
        *("run", "01-a", "-p", "count", "7", "-p", "share", "-0.5", "--parameter", "kind", "a"),
        *("-p", "sizes", "[1, 2]", "-p", "all", "True", "--profile", "published"),
        *("-j", "2", "02-b"),
    )
    assert result.exit_code == 0, result.output
    assert taken["names"] == ["01-a", "02-b"]
    assert (taken["profile"], taken["jobs"]) == ("published", 2)
    expected = {"count": 7, "share": -0.5, "kind": "a", "sizes": [1, 2], "all": True}
    assert taken["parameters"] == expected
    assert result.stdout == "done.ipynb\n"
    assert result.stderr.startswith("gengap: done.ipynb is not there to be rendered")


def test_only_parameters_are_joined():
    given = ["a", "-m", "b", "-p", "c", "d=e", "f"]
    assert joined_pairs(given) == ["a", "-m", "b", "-p", "c=d=e", "f"]


def test_the_entry_point_runs_in_a_process_of_its_own(data_folder):
    command = [sys.executable, "-c", "from gengap.cli import main; main()", "measure", "cnnzoo"]
    told = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
    assert told.returncode == 1
    assert told.stderr.startswith("gengap: cnnzoo has no folder")
