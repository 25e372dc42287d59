"""cuda.py SYL FAKE WORK: what the command says where CUDA cannot be used, by a driver that pretends (FAKE: the folder of tests/fake/cuda.c).
Each failure has its name and its exit code, and the process behind it is fine."""
import json
import os
import pathlib
import subprocess
import sys

syl, fake, work = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
work.mkdir(parents=True, exist_ok=True)
root = pathlib.Path(__file__).resolve().parent.parent
failed = 0


def run(*args, folder=fake, **environment):
    env = {**os.environ, "LD_LIBRARY_PATH": str(folder), **environment}
    return subprocess.run([syl, *args], env=env, capture_output=True, text=True, timeout=120)


def check(what, result, code, *said):
    global failed
    text = result.stdout + result.stderr
    if result.returncode == code and all(part in text for part in said):
        return
    failed += 1
    print(f"{what}: exit code {result.returncode}, expected {code} and {said}; found:\n{text}")


model = work / "mlp.syl"
check("compile", run("compile", str(root / "examples/mlp/graph.json"), "-o", str(model), "--recipe", "f32"), 0)
profile = ("profile", str(model), "--rows", "4")

broken = work / "broken"
broken.mkdir(exist_ok=True)
(broken / "libcuda.so.1").write_text("no library")
check("no driver", run(*profile, "--device", "cuda", folder=broken), 7, "error[cuda-no-driver]", "--device cpu")
check("old driver", run(*profile, "--device", "cuda", FAKE_CUDA_VERSION="12020"), 7, "error[cuda-old-driver]", "12.2", "12.8")
check("no GPU", run(*profile, "--device", "cuda", FAKE_CUDA_DEVICES="0"), 7, "error[cuda-no-device]")
check("no such GPU", run(*profile, "--device", "cuda:2"), 2, "error[cuda-device]", "this machine has 1 GPU")
check("no such device", run(*profile, "--device", "gpu"), 2, "error[device-unknown]")
check("a full GPU", run(*profile, "--device", "cuda", FAKE_CUDA_MEMORY="1000"), 6, "error[cuda-memory]", "1.0 kB are free", "largest: weights")
check("no NVRTC", run(*profile, "--device", "cuda", SYL_NVRTC="/nonexistent", SYL_CACHE_DIR=str(work / "no-nvrtc")), 4, "error[nvrtc-missing]", "/nonexistent")

# The default: the first GPU that can be used, else the CPU, with a word where a driver is there and too old.
default = {"SYL_DEVICE": ""}
check("no GPU by default", run(*profile, folder=broken, **default), 0, "on cpu")
check("an old driver by default", run(*profile, FAKE_CUDA_VERSION="12020", **default), 0, "on cpu", "warning", "12.2")
check("a GPU by default", run(*profile, FAKE_CUDA_MEMORY="1000", **default), 6, "error[cuda-memory]")
check("SYL_DEVICE", run(*profile, SYL_DEVICE="cuda:5"), 2, "error[cuda-device]")
check("--device above SYL_DEVICE", run(*profile, "--device", "cpu", SYL_DEVICE="cuda:5"), 0, "on cpu")

devices = run("devices", "--json", FAKE_CUDA_DEVICES="2")
check("devices", devices, 0)
gpus = json.loads(devices.stdout)["gpus"]
if [gpu["device"] for gpu in gpus] != ["cuda:0", "cuda:1"] or gpus[1]["name"] != "Fake GPU 1" or gpus[0]["capability"] != 90:
    failed += 1
    print(f"devices: {gpus}")
check("devices without", run("devices", folder=broken), 0, "gpu: none (cannot open the CUDA driver")

report = run(*profile, "--device", "cpu", "--json", "-o", str(work / "trace.json"))
check("profile", report, 0)
kernels = json.loads(report.stdout)["call"]
events = json.loads((work / "trace.json").read_text())["traceEvents"]
if len(events) != sum(row["runs"] for row in kernels) or not all(event["dur"] > 0 and event["args"]["bytes"] > 0 for event in events):
    failed += 1
    print(f"profile: {kernels} {events}")

sys.exit(1 if failed else 0)
