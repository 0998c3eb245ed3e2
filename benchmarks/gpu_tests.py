"""The GPU's tests, and a record of them.

python -m benchmarks.gpu_tests [--output FILE] [pytest arguments]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.environment import RESULTS, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu_tests.json")
    arguments, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        run = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests", f"--junitxml={report}", *more]
        status = subprocess.run(run, check=False).returncode
        cases = list(ElementTree.parse(report).iter("testcase"))
    outcomes = Counter(_outcome(case) for case in cases)
    by_test = Counter((case.get("name") or "").split("[")[0] for case in cases if _outcome(case) == "passed")
    failed = [case.get("name") for case in cases if _outcome(case) == "failed"]
    write(
        arguments.output,
        exit_status=status,
        outcomes=dict(outcomes),
        passed_by_test=dict(by_test),
        failed=failed,
    )
    sys.exit(status)


def _outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


if __name__ == "__main__":
    main()
