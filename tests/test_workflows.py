"""The workflows, as far as that can be seen without running them: `make lint` also has actionlint read them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

# What decides where packages, images and tools are loaded from.
LOADERS = ["pyproject.toml", "constraints.txt", "setup.py", "CMakeLists.txt", "Makefile", ".pre-commit-config.yaml"]
LOADERS += [".ci/run", *(f".github/workflows/{path.name}" for path in WORKFLOWS)]
LOADERS += [f"tools/{path.name}" for path in sorted((ROOT / "tools").glob("*.*"))]

pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="an sdist has no workflows")


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def workflow(request):
    return request.param.read_text()


def test_actions_are_pinned(workflow):
    """A tag can be moved, a commit cannot."""
    for action in re.findall(r"uses: (.+)", workflow):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)


def test_workflows_may_only_read(workflow):
    """Publishing asks for more, and only for a tag."""
    assert "\npermissions:\n  contents: read\n" in workflow
    for job in re.split(r"\n  (?=\w+:\n)", workflow.partition("\njobs:\n")[2]):
        assert "write" not in job or "if: startsWith(github.ref, 'refs/tags/v')" in job


def test_workflows_end(workflow):
    """Every job has a limit, and a newer push takes the place of an older one."""
    assert "\nconcurrency:\n" in workflow
    assert workflow.count("timeout-minutes:") == workflow.count("runs-on:")


@pytest.mark.parametrize("name", LOADERS)
def test_no_file_names_an_index_or_a_registry(name):
    """Who runs it chooses: pip's own settings, a variable of the repository, or the default of the tool."""
    assert not re.findall(r"\w+://|\b[\w-]+\.(?:com|dev|io|net|org)\b", (ROOT / name).read_text())


def test_every_wheel_has_a_job():
    """The lint step compares the same list with what cibuildwheel would build."""
    pythons = re.search(r"python: \[(.+)\]", (ROOT / ".github/workflows/wheels.yml").read_text()).group(1)
    assert f'"{pythons.replace(",", "")}"' in (ROOT / "Makefile").read_text()


def test_hooks_have_the_versions_of_make():
    """Another version of a formatter formats otherwise."""
    pinned = set((ROOT / "constraints.txt").read_text().split())
    hooks = set(re.findall(r"[\w-]+==[\d.]+", (ROOT / ".pre-commit-config.yaml").read_text()))
    assert hooks
    assert {hook for hook in hooks if not hook.startswith("pre-commit-hooks")} <= pinned
