"""The house rules that a command can see: floors, floor 0 without torch, sizes, one launch function, one source list."""

import ast
import re
from pathlib import Path

import pytest

from sparse_ext import METHODS
from sparse_ext.ops import BACKENDS, LAYOUTS, OPS, reference

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "sparse_ext"
PYTHON = [
    path
    for folder in ("sparse_ext", "bench", "examples", "accuracy", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
CPP = (".h", ".inc", ".cpp", ".cu", ".cuh")
CODE = [path for path in sorted(CSRC.rglob("*")) if path.suffix in CPP]
ALL_CODE = [*CODE, *(path for path in sorted((ROOT / "tests").rglob("*")) if path.suffix in CPP)]

# Floor 0: the folders that a file may include from, beside its own room's. A room is a kernel family; rooms share only these.
SHARED = {"cpu": {"common", "cpu/simd"}, "cuda": {"common", "cuda/device"}, "common": {"common"}, "python": {"common"}}

# Where a module of the package lives; what is not named is on the roof, floor 5.
FLOORS = {"_C": 0, "ops": 1, "nn": 2, "functional": 2, "utils": 2, "methods": 3, "train": 4}
ROOF = 5
# These stand beside the house: they import nothing of ours, and may be taken elsewhere as they are.
BESIDE = ("energy", "report")

MAX_FILE, MAX_FUNCTION, MAX_COLUMNS = 300, 45, 128
# Longer for a reason: name it.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def without_comments(path):
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.S)


def imports(path):
    """The package's modules that a file imports, anywhere in it, as dotted names below sparse_ext."""
    here = ("sparse_ext", *path.relative_to(PACKAGE).parent.parts) if path.is_relative_to(PACKAGE) else ()
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*here[: len(here) - node.level + 1], *filter(None, [node.module])]) if node.level else node.module
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {name.removeprefix("sparse_ext.") for name in found if name.startswith("sparse_ext.")}


def floor_of(name):
    return FLOORS.get(name.partition(".")[0], ROOF)


def test_floors_point_down():
    upward = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for name in imports(path):
            beside = module in BESIDE and name.partition(".")[0] != module
            if beside or floor_of(name) > floor_of(module):
                upward.append(f"{relative(path)} (floor {floor_of(module)}) imports {name} (floor {floor_of(name)})")
    assert not upward


def test_only_ops_imports_the_binary():
    outside = [path for path in PYTHON if PACKAGE / "ops" not in path.parents]
    assert not [relative(path) for path in outside if any(name.partition(".")[0] == "_C" for name in imports(path))]


def test_only_hf_imports_transformers():
    """And nothing imports it: who does not use Hugging Face needs nothing of it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        imported = {
            (alias.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert ("transformers" in imported) == (path == PACKAGE / "hf.py"), relative(path)
        assert "hf" not in {name.partition(".")[0] for name in imports(path)}, relative(path)


# What all rooms share, and the only files of it that list the rooms.
SHARED_PYTHON = [
    *sorted((PACKAGE / "ops").glob("*.py")),
    *(path for floor in ("nn", "train") for path in sorted((PACKAGE / floor).rglob("*.py"))),
    PACKAGE / "methods" / "base.py",
]
LISTS_OF_ROOMS = ("sparse_ext/ops/__init__.py", "sparse_ext/ops/reference.py")


def without_words(path):
    """A Python file's code: no comments, no documentation."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if ast.get_docstring(node) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) else None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def test_what_is_shared_knows_no_room():
    """What differs between layouts is a row or an override."""
    for path in SHARED_PYTHON:
        if relative(path) not in LISTS_OF_ROOMS:
            assert not re.findall(r"nm24|Nm24|2:4|Csr|row_ptr|col_idx", without_words(path)), relative(path)


def test_layouts_are_not_told_apart_by_isinstance():
    names = {kind.__name__ for layout in LAYOUTS.values() for kind in (layout, layout.pattern, layout.operands)}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
                assert not names & set(re.findall(r"\w+", ast.unparse(node.args[1]))), f"{relative(path)}:{node.lineno}"


def test_rooms_of_operators_have_the_same_files():
    """Who looks for a room's pattern, layout, operators or twins finds them under the same name in each."""
    rooms = [path for path in sorted((PACKAGE / "ops").iterdir()) if path.is_dir() and path.name[0] not in "_b"]
    assert [room.name for room in rooms] == ["csr", "dense", "masked", "nm24", "regrow"]
    for room in rooms:
        own = {path.stem for path in room.glob("*.py")}
        assert ({"pattern", "layout"} <= own) == any(
            layout.__module__ == f"sparse_ext.ops.{room.name}.layout" for layout in LAYOUTS.values()
        )
        assert ("kernels" in own) == ("reference" in own)


# Words that have others in their place: dense weight, rng (seed, offset), sync, empty, from_checkpoint.
OLD_WORDS = r"\bmaster\b|\bdraws?\b|catch_up|none_yet|\badopted\b"
# They read what version 1 wrote, or name a random stream that it began.
READS_VERSION_1 = ("sparse_ext/train/state.py", "sparse_ext/train/form.py", "sparse_ext/train/sparsifier.py")


def test_old_words_are_gone():
    texts = [*CODE, *sorted(PACKAGE.rglob("*.py*")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
    texts = [path for path in texts if path.suffix != ".pyc" and relative(path) not in READS_VERSION_1]
    assert not [relative(path) for path in texts if re.search(OLD_WORDS, path.read_text(), re.I)]


def test_floor_0_is_torch_and_python_free():
    for path in CODE:
        includes = re.findall(r'#\s*include\s*[<"]([^>"]+)', path.read_text())
        assert not [name for name in includes if re.match(r"(torch|ATen|c10)/", name)], relative(path)
        if path.parent != CSRC / "python":
            assert not [name for name in includes if re.match(r"pybind11/|Python\.h", name)], relative(path)


def code_lines(function):
    """Lines of a function; its documentation does not count."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if documented else 0)


def functions():
    for path in PYTHON:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{relative(path)}:{node.name}", code_lines(node)


def test_sizes():
    """Exceptions are listed with their reason, and only while they are needed."""
    files = {relative(path): len(path.read_text().splitlines()) for path in [*PYTHON, *ALL_CODE]}
    assert {name for name, lines in files.items() if lines > MAX_FILE} == set(LONG_FILES)
    assert {name for name, lines in functions() if lines > MAX_FUNCTION} == set(LONG_FUNCTIONS)


def test_kernels_are_launched_by_launch():
    """launch() records the kernel for error messages, takes the runtime's error, and is what the emulator replaces."""
    for path in sorted((CSRC / "cuda").glob("*/*")):
        code = without_comments(path)
        assert "<<<" not in code, relative(path)
        assert path.name == "launch.cuh" or "cudaLaunch" not in code, relative(path)
        for kernel in re.findall(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(", code):
            assert re.search(rf'launch\(\s*"[^"]+",\s*{kernel}\b', code), f"{relative(path)}: {kernel} is not launched"


def test_rooms_share_no_headers():
    """Another room is used by its launchers only, whose declarations lie in no folder."""
    for path in CODE:
        folder = path.parent.relative_to(CSRC).as_posix()
        device, _, room = folder.partition("/")
        if device not in SHARED:
            continue
        for name in re.findall(r'#\s*include "([^"]+)"', path.read_text()):
            allowed = {"", folder, f"common/{room}", *SHARED[device]}
            assert name.rpartition("/")[0] in allowed, f"{relative(path)} includes {name}"


def test_kernels_are_in_their_rooms():
    """The namespace of a room has its name."""
    for path in CODE:
        device, _, room = path.parent.relative_to(CSRC).as_posix().partition("/")
        if device in ("cpu", "cuda") and room not in ("simd", "device"):
            isa = "::SPX_ISA" if device == "cpu" else ""
            assert set(re.findall(r"^namespace ([\w:]+) {", path.read_text(), re.M)) == {f"spx::{device}{isa}::{room}"}, (
                relative(path)
            )


def test_columns():
    """clang-format breaks code; comments and strings are ours."""
    long = [
        f"{relative(path)}:{number}"
        for path in ALL_CODE
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > MAX_COLUMNS
    ]
    assert not long


def test_launchers_have_one_declaration():
    """Every device and instruction set includes the same text, and every launcher in it is bound by one line."""
    declarations = without_comments(CSRC / "launchers.inc")
    declared = re.findall(r"^(?:Status|int64_t) (\w+)\(", declarations, re.M)
    bound = re.findall(r'bind<\w+>\(m, "(\w+)", SPX_\w+\(\w+::(\w+)\)', without_comments(CSRC / "python" / "bindings.inc"))
    assert len(set(declared)) == len(declared)
    assert sorted(declared) == sorted(name for name, _ in bound)
    assert all(name == launcher for name, launcher in bound)
    on_cpu = re.findall(
        r"^(?:Status|int64_t) (\w+)\(", "".join(re.findall(r"#if defined\(SPX_ON_CPU\)(.*?)#endif", declarations, re.S)), re.M
    )
    assert on_cpu
    for device, backend in BACKENDS.items():
        assert {name for name in declared if not hasattr(backend.module, name)} == set(on_cpu if device != "cpu" else ()), (
            device
        )


def test_one_source_list():
    listed = set(re.findall(r"csrc/[\w/]+\.(?:cpp|cu)\b", (ROOT / "CMakeLists.txt").read_text()))
    assert listed == {relative(path) for path in CODE if path.suffix in (".cpp", ".cu")}
    assert not re.search(r"\.(cpp|cu)\b", (ROOT / "setup.py").read_text())


def test_tolerances_are_in_cases():
    loose = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg in ("rtol", "atol") and path.name != "cases.py":
                value = node.value
                if isinstance(value, ast.Constant) and value.value != 0:  # 0 asks for equality
                    loose.append(f"{relative(path)}:{value.lineno}")
    assert not loose


def test_every_operator_has_a_twin():
    assert not [name for name in OPS if not hasattr(reference, name)]


@pytest.mark.parametrize("table", [METHODS, LAYOUTS], ids=["METHODS", "LAYOUTS"])
def test_tables_are_exercised(table):
    """Tests run over the table, and each of its rows also has a case of its own."""
    name = "METHODS" if table is METHODS else "LAYOUTS"
    texts = [path.read_text() for path in sorted((ROOT / "tests").rglob("*.py")) if path.name != "test_house.py"]
    assert any(re.search(rf"\b{name}\b", text) for text in texts), f"no test runs over {name}"
    for key, row in table.items():
        assert any(re.search(rf"\b{row.__name__}\b|[\"']{key}[\"']", text) for text in texts), f"no test has a case for {key!r}"
