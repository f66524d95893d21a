"""Mutates the rules and sees which mutants the unit tests find: ``python -m tests.mutation [module …]``.

mutmut makes the mutants, all of a module in one file, of which a variable of the environment chooses one. Its own
``mutmut run`` collects the tests anew for each: here they are collected once, and each mutant gets a fork of that
process. README.md says what is left out, and what was found.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MADE = ROOT / "mutants"
DOMAIN = Path("bridge", "domain")
COPIED = ["bridge", "tasks", "tests", "deploy", "pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
SURVIVED, KILLED, TIMED_OUT, UNTESTED = "survived", "killed", "timed out", "no test"


def make(*, anew: bool) -> dict[str, list[str]]:
    """Copy the repository with its rules mutated; the mutants' names by module."""
    from mutmut.mutation.file_mutation import mutate_file_contents

    if anew:
        shutil.rmtree(MADE, ignore_errors=True)
    MADE.mkdir(exist_ok=True)
    for name in COPIED if anew else ():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, MADE / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, MADE / name)
    names: dict[str, list[str]] = {}
    for path in sorted((ROOT / DOMAIN).glob("*.py")):
        mutated = mutate_file_contents(str(DOMAIN / path.name), path.read_text(encoding="utf-8"))
        (MADE / DOMAIN / path.name).write_text(mutated.code, encoding="utf-8")
        names[path.stem] = [f"bridge.domain.{path.stem}.{name}" for name in mutated.mutant_names]
    return names


def run(mutants: Sequence[str], workers: int) -> dict[str, str]:
    """What became of each mutant; those that an earlier run of the same mutants saw to are not run again."""
    environ = {**os.environ, "HYPOTHESIS_PROFILE": "mutation", "PYTHONDONTWRITEBYTECODE": "1"}
    done = MADE / "done.txt"
    known = _noted(done)
    (MADE / "todo.txt").write_text("\n".join(one for one in mutants if one not in known))
    command = [sys.executable, "-m", "tests.mutation.runner", "todo.txt", "done.txt", str(workers)]
    subprocess.run(command, cwd=MADE, env=environ, check=True)
    return _noted(done)


def _noted(done: Path) -> dict[str, str]:
    lines = done.read_text().splitlines() if done.exists() else []
    return dict(line.split(" ", 1) for line in lines)


def difference(mutant: str) -> str:
    """What a mutant has changed, as the lines of a diff."""
    module, _, name = mutant.rpartition(".")
    sources = _functions(MADE / DOMAIN / f"{module.rpartition('.')[2]}.py")
    before, after = (sources[one].splitlines() for one in (f"{name.rpartition('_')[0]}_orig", name))
    return "\n".join(difflib.unified_diff(before[1:], after[1:], lineterm="", n=0)).partition("\n@@")[2]


@cache
def _functions(path: Path) -> dict[str, str]:
    """The source of each function; by lines, for ``ast.get_source_segment`` reads the whole file for each."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    return {
        node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno])
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
    }


def report(names: Mapping[str, Sequence[str]], found: Mapping[str, str]) -> None:
    print("| module | mutants | killed | timed out | survived | no test |\n|---|---|---|---|---|---|")
    whole: Counter[str] = Counter()
    for module, mutants in names.items():
        count = Counter(found[one] for one in mutants)
        whole += count
        if mutants:
            _row(module, count)
    _row("**all**", whole)
    print(f"\n{100 * (whole[KILLED] + whole[TIMED_OUT]) / max(1, whole.total()):.1f} % killed")


def _row(name: str, count: Counter[str]) -> None:
    print(
        f"| {name} | {count.total()} |",
        " | ".join(str(count[one]) for one in (KILLED, TIMED_OUT, SURVIVED, UNTESTED)),
        "|",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", help="modules of bridge/domain; all, where none is named")
    parser.add_argument("--workers", type=int, default=2, help="mutants at a time")
    parser.add_argument("--only", type=Path, help="a file with names of mutants, one a line: these alone")
    parser.add_argument("--go-on", action="store_true", help="with the mutants and tests of the run that was stopped")
    asked = parser.parse_args()
    names = make(anew=not asked.go_on)
    if asked.modules:
        names = {name: names[name] for name in asked.modules}
    if asked.only:
        wanted = set(asked.only.read_text().split())
        names = {module: [one for one in group if one in wanted] for module, group in names.items()}
    found = run([one for group in names.values() for one in group], asked.workers)
    for mutant, fate in found.items():
        if fate in {SURVIVED, UNTESTED}:
            print(f"{mutant} {fate}{difference(mutant)}\n")
    report(names, found)


if __name__ == "__main__":
    main()
