"""Shows that the tests can fail: takes each promise's mechanism away, in a copy, and runs the test that guards it.

    python tests/prove.py [--only TEXT] [--json FILE]

`mutations.toml` lists promise, file, the line to replace and with what, and the test. Each test is run with
the mechanism first and must pass. One that stays green without it guards nothing; then the exit code is 1.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
MUTATIONS = REPOSITORY / "tests" / "mutations.toml"
TIMEOUT_S = 120
ENVIRONMENT = {**os.environ, "HYPOTHESIS_PROFILE": "prove"}


def mutations():
    return tomllib.loads(MUTATIONS.read_text())["mutation"]


def tracked():
    listing = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return [REPOSITORY / name for name in listing.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def copy_to(folder):
    for path in tracked():
        target = folder / path.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def mutated(text, mutation):
    """The file's text without the mechanism; what is replaced must be there once."""
    assert text.count(mutation["old"]) == 1, (
        f"{mutation['file']}: {text.count(mutation['old'])} times {mutation['old']!r}"
    )
    return text.replace(mutation["old"], mutation["new"])


def outcome(test, folder):
    """Run a test; returns "green" or "red", and in how many seconds."""
    began_s = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test]
    try:
        done = subprocess.run(
            command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return "red", TIMEOUT_S
    # 1 is a test that failed; anything above, one that was not found or could not begin.
    assert done.returncode < 2, done.stdout[-4000:] + done.stderr[-4000:]
    return ("red" if done.returncode else "green"), time.monotonic() - began_s


def without(mutation, folder):
    """Outcome of a mutation's test where the mechanism is missing."""
    path = folder / mutation["file"]
    whole = path.read_text()
    path.write_text(mutated(whole, mutation))
    try:
        return outcome(mutation["test"], folder)
    finally:
        path.write_text(whole)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--only", default="", help="promises or files that hold this text")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    options = parser.parse_args()
    chosen = [m for m in mutations() if options.only in f"{m['promise']} {m['file']} {m['test']}"]
    results, usual = [], {}
    with tempfile.TemporaryDirectory(prefix="detectd-prove-") as name:
        copy_to(Path(name))
        for mutation in chosen:
            test = mutation["test"]
            usual[test] = usual.get(test) or outcome(test, Path(name))[0]
            result, seconds = without(mutation, Path(name))
            results.append({**mutation, "with": usual[test], "without": result, "seconds": round(seconds, 1)})
            print(f"{usual[test]:5} -> {result:5} {seconds:5.0f} s  {mutation['promise']}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    n_good = sum((result["with"], result["without"]) == ("green", "red") for result in results)
    print(f"{n_good} of {len(results)} tests pass with the mechanism they guard and fail without it")
    sys.exit(n_good < len(results))


if __name__ == "__main__":
    main()
