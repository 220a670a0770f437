"""The list of mutations is true: every mechanism is where it says, and every test is there."""

import subprocess
import sys

import pytest
from prove import REPOSITORY, mutated, mutations


@pytest.mark.parametrize("mutation", mutations(), ids=lambda mutation: mutation["promise"])
def test_a_mechanism_is_there_to_be_taken_away(mutation):
    text = (REPOSITORY / mutation["file"]).read_text()
    without = mutated(text, mutation)
    assert without != text
    if mutation["file"].endswith(".py"):
        compile(without, mutation["file"], "exec")


def test_the_tests_named_are_there():
    names = sorted({mutation["test"] for mutation in mutations()})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *names]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
