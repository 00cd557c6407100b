"""Break runs on purpose, and say what was lost.

    python tests/torture [FAULT …] [--cases N] [--seed S]

A fault is a module of this folder with a function ``cases``. Without ``--cases`` all are tried.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from torture.case import SEED, sample, try_case  # noqa: E402

FAULTS = sorted(
    path.stem for path in HERE.glob("*.py") if "\ndef cases(" in path.read_text(encoding="utf-8")
)


def main() -> int:
    """Try the cases that the command line asks for; 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--cases", type=int, help="at most so many of each; all unless given")
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    if unknown := set(arguments.faults) - {*FAULTS}:
        parser.error(f"{', '.join(sorted(unknown))}: no such fault; there are {', '.join(FAULTS)}")
    failed = 0
    for fault in arguments.faults or FAULTS:
        begun, failures = time.monotonic(), 0
        module = importlib.import_module(f"torture.{fault}")
        chosen = sample(module.cases(), arguments.cases, arguments.seed)
        for case in chosen:
            if (why := try_case(case)) is not None:
                failures += 1
                print(f"FAILED {fault}: {case.name}\n{why}", flush=True)
        held = len(chosen) - failures
        took = time.monotonic() - begun
        print(f"{fault}: {held} of {len(chosen)} held, seed {arguments.seed}, {took:,.0f} s")
        failed += failures
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
