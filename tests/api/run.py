#!/usr/bin/env python3
"""run.py NAME BUILD_DIR WORKDIR: the public API from outside, against what was built in BUILD_DIR.

symbols    libsyl.so exports the functions that syl.h declares and nothing else
header     syl.h compiles alone as C11 and as C++17, without a warning
install    what `cmake --install` puts down is enough to build and run examples/api/generate.c by pkg-config
examples   the examples in C and Python on random small models: the text of the command
threads    two_models alone (under the thread sanitizer, in the preset tsan)
"""
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROMPT = "the man in the inn"


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, **options).stdout


def fail(text):
    sys.exit("FAILED: " + text)


def symbols(build, work):
    header = (ROOT / "include/syl/syl.h").read_text(encoding="utf-8")
    declared = set(re.findall(r"^SYL_API [^;(]*?(syl_\w+)\(", header, re.M))
    listing = run("nm", "-D", "--defined-only", build / "libsyl.so", text=True)
    exported = {line.split()[-1].split("@")[0] for line in listing.splitlines()}
    print(f"{len(declared)} functions declared, {len(exported)} symbols exported")
    if len(declared) < 30 or declared != exported:
        fail(f"declared only: {sorted(declared - exported)}; exported only: {sorted(exported - declared)}")


def header(build, work):
    source = '#include "syl/syl.h"\nint main(void) { return syl_version()[0] == 0; }\n'
    for compiler, language, standard in (("cc", "c", "c11"), ("c++", "c++", "c++17")):
        run(compiler, "-x", language, "-std=" + standard, "-Wall", "-Wextra", "-pedantic", "-Werror", "-I", ROOT / "include", "-fsyntax-only", "-",
            input=source.encode())
        print(f"{standard}: no warning")


def tiny(build, work, recipe, layers=2):
    """A random small Llama with a tokenizer, always the same."""
    sys.path.insert(0, str(ROOT / "tests/goldens"))
    import tiny_llama
    model, artifact = work / f"tiny{layers}.gguf", work / f"{recipe}-{layers}.syl"
    tiny_llama.write(model, layers)
    run(build / "syl", "compile", model, "-o", artifact, "--recipe", recipe, "-q")
    return model, artifact


def generated_by_command(build, artifact):
    return run(build / "syl", "generate", artifact, "-p", PROMPT, "-n", "64", "-q")


def same(what, got, want):
    print(f"{what}: {len(got)} bytes of text")
    if got != want or len(want) < 2:
        fail(f"{what} wrote {got!r}, the command {want!r}")


def examples(build, work):
    model, artifact = tiny(build, work, "w8a8")
    want = generated_by_command(build, artifact)
    same("generate.c", run(build / "examples/generate", artifact, PROMPT), want)
    same("generate.c with compiling", run(build / "examples/generate", model, work / "again.syl", PROMPT), want)
    if (work / "again.syl").read_bytes() != artifact.read_bytes():
        fail("the API compiled to other bytes than the command")
    python = [sys.executable, ROOT / "examples/python/generate.py", "--lib", build / "libsyl.so"]
    same("generate.py", run(*python, artifact, PROMPT), want)
    same("generate.py with compiling", run(*python, model, PROMPT, "-o", work / "python.syl"), want)
    threads(build, work)


def threads(build, work):
    a, b = tiny(build, work, "w8a8")[1], tiny(build, work, "f32", 1)[1]
    lines = run(build / "examples/two_models", a, b, 24, text=True).splitlines()
    print("\n".join(lines))
    if len(lines) != 3 or lines[0] != lines[2] or lines[0][2:] == lines[1][2:]:
        fail("the same model must write the same tokens, another model others")


def install(build, work):
    prefix = work / "prefix"
    run("cmake", "--install", build, "--prefix", prefix)
    package = next(prefix.rglob("sylvester.pc"))
    flags = run("pkg-config", "--cflags", "--libs", f"--define-variable=prefix={prefix}", f"--define-variable=includedir={prefix}/include",
                f"--define-variable=libdir={package.parent.parent}", package, text=True).split()
    run("cc", "-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror", ROOT / "examples/api/generate.c", "-o", work / "generate", *flags)
    artifact = tiny(build, work, "w8a8")[1]
    environment = dict(os.environ, LD_LIBRARY_PATH=str(package.parent.parent))
    same("installed", run(work / "generate", artifact, PROMPT, env=environment), generated_by_command(build, artifact))
    run(prefix / "bin/syl", "--version")


if __name__ == "__main__":
    name, build, work = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    work.mkdir(parents=True, exist_ok=True)
    {"symbols": symbols, "header": header, "examples": examples, "threads": threads, "install": install}[name](build, work)
