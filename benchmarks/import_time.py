"""`python -m benchmarks.import_time`: how long `import loss` takes beyond importing torch and numba."""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

# numba makes two of its modules when they are first asked for; they are its own all the same.
IMPORT = """
import time, torch, numba, numba.extending, numba.core.ccallback
begun = time.perf_counter()
import loss
print(time.perf_counter() - begun)
"""


def main() -> None:
    """Print the median, and the fastest and slowest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=15, metavar="N", help="new processes (default: %(default)s)")
    times = parser.parse_args().times
    _seconds()  # the first one writes the byte code
    ms = [1e3 * _seconds() for _ in range(times)]
    print(f"import loss: {statistics.median(ms):.1f} ms ({min(ms):.1f} to {max(ms):.1f}) beyond torch and numba")


def _seconds() -> float:
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, check=True, capture_output=True, text=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()
