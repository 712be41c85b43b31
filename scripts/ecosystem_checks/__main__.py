"""The command: start a deployment, let each check ask it, print a line for each; exit code 1 when one failed."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from scripts.ecosystem_checks.checks import CHECKS, Check, Failed, Missing
from scripts.ecosystem_checks.deployment import Deployment, deployed


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/ecosystem", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(CHECKS)} (default: all)")
    names = parser.parse_args().names or list(CHECKS)
    if unknown := [name for name in names if name not in CHECKS]:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(CHECKS)}")
    with tempfile.TemporaryDirectory() as folder, deployed(Path(folder)) as deployment:
        good = [report(name, CHECKS[name], deployment) for name in names]
    return 0 if all(good) else 1


def report(name: str, check: Check, deployment: Deployment) -> bool:
    """Print how it went. What is not installed here is said, and is no failure."""
    try:
        version = check.install(name)
        said, good = f"{check.asks}: {check.run(name, deployment)}", True
    except Missing as missing:
        version, said, good = "", f"NOT CHECKED: {missing}", True
    except Failed as failed:
        version, said, good = "", f"FAILED: {failed}", False
    print(" ".join(filter(None, [name, version])) + f": {said}", flush=True)
    return good


if __name__ == "__main__":
    sys.exit(main())
