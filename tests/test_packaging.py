"""pyproject.toml (ranges), constraints.txt (exact versions) and environment.yml agree."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from gengap.folders import repository

PROJECT = tomllib.loads((repository() / "pyproject.toml").read_text())["project"]
DIRECT = PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), [])
LINES = (repository() / "constraints.txt").read_text().splitlines()
PINNED = dict(line.split("==") for line in LINES if not line.startswith("#"))


def imported(code):
    """The top-level packages that a module imports."""
    nodes = list(ast.walk(ast.parse(code)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def test_every_direct_dependency_is_pinned_within_its_range():
    for text in DIRECT:
        requirement = Requirement(text)
        assert requirement.specifier.contains(PINNED[canonicalize_name(requirement.name)]), text


def test_the_conda_environment_takes_a_python_that_the_package_admits_and_the_pinned_versions():
    environment = yaml.safe_load((repository() / "environment.yml").read_text())
    *packages, pip_part = environment["dependencies"]
    python = next(package.split("=")[1] for package in packages if package.startswith("python="))
    assert python in SpecifierSet(PROJECT["requires-python"])
    assert pip_part["pip"] == ["--constraint constraints.txt", "--editable .[test]"]


def test_every_package_that_the_code_imports_is_a_declared_dependency():
    declared = {canonicalize_name(Requirement(text).name) for text in DIRECT}
    homes = packages_distributions()
    for path in (repository() / "src").rglob("*.py"):
        for package in imported(path.read_text()) - {"gengap", *sys.stdlib_module_names}:
            found = {canonicalize_name(home) for home in homes[package]}
            assert found & declared, f"{path} imports {package}"
