"""Writes stubs of glibc's libraries, as a linker reads them, so that what is linked here also runs on an older glibc.

    python tools/older_glibc.py 2.28 FOLDER     prints the stubs' paths, separated by ";"; nothing where none is needed

Since 2.34 the C library itself holds threads, dlopen and shared memory. A linker takes the newest version of a symbol, and so
asks for pthread_create of 2.34, although every glibc also has the older one under its old name. The stubs offer that one, in
the library where it was. The linker reads them, and nothing ever loads them.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

LIBRARIES = {"libpthread.so.0": r"_*pthread_\w+|sem_\w+", "libdl.so.2": r"dl\w+", "librt.so.1": r"shm_\w+"}


def versions(libc: str) -> dict[str, list[tuple[int, ...]]]:
    """The versions of each function of a C library, ascending."""
    table = subprocess.run(["objdump", "-T", libc], capture_output=True, text=True, check=True).stdout
    found: dict[str, list[tuple[int, ...]]] = {}
    for version, name in re.findall(r"\bDF\s+\.text\s.*\bGLIBC_([\d.]+)\)?\s+(\w+)$", table, re.M):
        found[name] = sorted([*found.get(name, []), tuple(map(int, version.split(".")))])
    return found


def stub(compiler: str, path: Path, symbols: dict[str, str]) -> Path:
    """A shared library without code, that has the symbols in these versions."""
    lines = [
        f'.globl stub{number}\n.type stub{number}, "function"\nstub{number}:\n.symver stub{number}, {name}@@{version}\n'
        for number, (name, version) in enumerate(symbols.items())
    ]
    source, script = path.with_suffix(".s"), path.with_suffix(".map")
    source.write_text("".join(lines))
    script.write_text("".join(f"{version} {{ }};\n" for version in sorted(set(symbols.values()))))
    options = ["-shared", "-nostdlib", f"-Wl,-soname,{path.name}", f"-Wl,--version-script={script}"]
    subprocess.run([compiler, *options, source, "-o", path], check=True)
    return path


def main(target: str, folder: Path, compiler: str = "c++") -> None:
    newest = tuple(map(int, target.split(".")))
    libc = subprocess.run([compiler, "-print-file-name=libc.so.6"], capture_output=True, text=True, check=True).stdout.strip()
    if shutil.which("objdump") is None or not Path(libc).exists():  # another C library, or no binutils
        return
    older = {
        name: "GLIBC_" + ".".join(map(str, max(version for version in known if version <= newest)))
        for name, known in versions(libc).items()
        if known[0] <= newest < known[-1]
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for library, names in LIBRARIES.items():
        if symbols := {name: version for name, version in older.items() if re.fullmatch(names, name)}:
            paths.append(str(stub(compiler, folder / library, symbols)))
    print(";".join(paths))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
