"""Run every recipe and compare what it gives with what its first lines promise.

    python benchmarks/recipes.py [NAME …]

A recipe is a file in conf/experiment whose comment says ``test accuracy MEAN ± DEVIATION`` over
some seeds. A result further than three deviations from the mean fails, and so does the command. A
recipe that says it was not measured is passed over.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXPECTED = re.compile(r"test accuracy (?P<mean>0\.\d+) ± (?P<deviation>0\.\d+)")
DEVIATIONS = 3


def promised(recipe: Path) -> tuple[float, float] | None:
    """The mean and the standard deviation that a recipe states; None if it was not measured."""
    comment = "\n".join(line for line in recipe.read_text().splitlines() if line.startswith("#"))
    if "Expected: not measured" in comment:
        return None
    found = EXPECTED.search(comment)
    if found is None:
        sys.exit(f"{recipe} promises nothing: its comment lacks 'test accuracy MEAN ± DEVIATION'.")
    return float(found["mean"]), float(found["deviation"])


def test_accuracy(name: str, folder: str) -> float:
    """Run a recipe; return the accuracy on the test split."""
    command = [sys.executable, str(ROOT / "train.py"), f"experiment={name}"]
    subprocess.run([*command, f"hydra.run.dir={folder}/{name}"], check=True, capture_output=True)
    facts = json.loads((Path(folder) / name / "summary.json").read_text())
    return float(facts["metrics"]["test"]["accuracy"])


def main() -> None:
    """Run the recipes and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    recipes = sorted((ROOT / "conf" / "experiment").glob("*.yaml"))
    parser.add_argument("names", nargs="*", default=[recipe.stem for recipe in recipes])
    failed = 0
    print(f"{'recipe':18} {'expected':>17} {'measured':>9} {'minutes':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for name in parser.parse_args().names:
            expected = promised(ROOT / "conf" / "experiment" / f"{name}.yaml")
            if expected is None:
                print(f"{name:18} not measured")
                continue
            mean, deviation = expected
            began = time.perf_counter()
            accuracy = test_accuracy(name, folder)
            minutes = (time.perf_counter() - began) / 60
            holds = abs(accuracy - mean) <= DEVIATIONS * deviation
            failed += not holds
            verdict = "" if holds else "   outside its spread"
            print(f"{name:18} {mean:.4f} ± {deviation:.4f} {accuracy:9.4f} {minutes:8.1f}{verdict}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
