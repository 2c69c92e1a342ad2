"""Processor time and memory of imports of hostile logs, until they are refused.

Run: .venv/bin/python benchmarks/hostile_imports.py [NAME ...]
Writes benchmarks/results/hostile_imports.json. About 5 minutes on one core, most of them to write the logs.

The logs are those of `tests/adversarial/hostile_logs.py` at full size. Each is read by `worldline import` without
`--untrusted`, in a separate process with one thread. Both figures include the start of the interpreter and of the
libraries, 2 to 3 s.

Rows: processor seconds, largest resident memory in MB, and the last line of the message.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.adversarial import hostile_logs

RESULT: Final = Path(__file__).parent / "results" / "hostile_imports.json"
NAMES: Final = (
    *("single_rows", "many_data_sets", "many_lengths", "many_lines", "many_members"),
    *("long_tasks", "repeated_tasks", "nested_header", "long_header"),
)
COMMAND: Final = """
import sys
from worldline.cli.main import app

try:
    app()
except SystemExit as end:
    print(end.code)
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024)
"""


def row(name: str, folder: Path) -> dict[str, Any]:
    """The figures of one log."""
    logs, environment = (
        getattr(hostile_logs, name)(folder, 1.0),
        {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "400"},
    )
    command = [sys.executable, "-c", COMMAND, "import", str(logs), str(folder / "store"), "--yes"]
    before = os.times()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    status, peak = done.stdout.split()[-2:]
    message = done.stderr.strip().replace(str(folder), "")[-300:]
    return {
        "refused": status != "0",
        "processor_s": round(seconds, 1),
        "memory_mb": round(float(peak)),
        "message": message,
    }


def main() -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    rows = {}
    for name in options.names:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = row(name, Path(folder))
        print(name, json.dumps(rows[name], ensure_ascii=False), flush=True)
    options.out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
