#!/usr/bin/env python3
"""run.py SYL FOLDER NAME: runs one row of cases.txt on the files that make.py made: the exit code and the named error must be those of the
row, nothing may be left where the output would have been, and no sanitizer may have anything to say."""
import pathlib
import shlex
import subprocess
import sys
import tempfile

syl, folder, name = sys.argv[1:]
table = pathlib.Path(__file__).with_name("cases.txt").read_text(encoding="utf-8").splitlines()
rows = [[cell.strip() for cell in line.split("|")] for line in table if line and not line.startswith("#")]
_, command, error, code = next(row for row in rows if row[0] == name)

with tempfile.TemporaryDirectory(dir=folder) as empty:
    arguments = [argument.replace("%o", f"{empty}/out") for argument in shlex.split(command)]
    done = subprocess.run([syl, *arguments], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=60)
    left = [path.name for path in pathlib.Path(empty).iterdir()]

print(done.stderr)
failures = []
if done.returncode != int(code):
    failures.append(f"expected exit code {code}, found {done.returncode}")
if f"error[{error}]" not in done.stderr:
    failures.append(f"expected error[{error}]")
if left:
    failures.append(f"left behind: {left}")
if "Sanitizer" in done.stderr or "runtime error:" in done.stderr:
    failures.append("a sanitizer reported")
for failure in failures:
    print(f"{name}: {failure}")
sys.exit(1 if failures else 0)
