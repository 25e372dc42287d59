#!/usr/bin/env python3
"""make.py SYL FOLDER: makes the malformed files of cases.txt in FOLDER. Each is a small good file with one thing wrong: good.gguf is
written here, good.json and good.syl are made of it by `syl import` and `syl compile`, good.sir is the text below."""
import json
import pathlib
import re
import struct
import subprocess
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "goldens"))
import gguf
import tiny_hf
import tiny_llama

SYL, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])

GOOD_IR = """module @good {
  source "good.gguf"
  func @forward(%x: tensor<Tx8xf32>) -> tensor<Tx4xf32> {
    %w = weight "w" : tensor<4x8xreal>
    %n = rms_norm %x {eps = 1e-05} : tensor<Tx8xf32>
    %y = linear %n, %w : tensor<Tx4xf32>
    return %y
  }
}
"""


def replaced(text, old, new):
    """`text` with one thing changed; the change must be one."""
    if old not in text:
        sys.exit(f"make.py: the good file has no {old!r} to change")
    return text.replace(old, new, 1)


def save(name, data):
    (FOLDER / name).write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))


def make_ir():
    def broken(name, old, new):
        save(f"ir-{name}.sir", replaced(GOOD_IR, old, new))

    save("good.sir", GOOD_IR)
    subprocess.run([SYL, "opt", FOLDER / "good.sir", "--passes", "dce", "-o", FOLDER / "same.sir"], check=True)
    broken("syntax", "%n = rms_norm", "%n rms_norm")
    broken("op", "rms_norm", "rms_nrom")
    broken("attribute", "eps", "epsilon")
    broken("type", "tensor<4x8xreal>", "tensor<4x8xfloat>")
    broken("shape", "linear %n, %w : tensor<Tx4xf32>", "linear %n, %w : tensor<Tx5xf32>")
    broken("undefined", "linear %n", "linear %m")
    broken("redefined", "%n = rms_norm", "%w = rms_norm")
    broken("no-return", "    return %y\n", "")


def make_gguf():
    tiny_llama.write(FOLDER / "good.gguf", layers=1)
    good = (FOLDER / "good.gguf").read_bytes()
    save("copy.gguf", good)
    reader = gguf.Reader(FOLDER / "good.gguf")
    metadata, tensors = reader.metadata, {name: reader.tensor(name) for name in reader.tensors}

    def patched(name, at, layout, value):
        data = bytearray(good)
        struct.pack_into(layout, data, at, value)
        save(f"gguf-{name}.gguf", bytes(data))

    def written(name, new_metadata={}, new_tensors={}, without=None):
        changed = {key: value for key, value in {**metadata, **new_metadata}.items() if key != without}
        gguf.write(FOLDER / f"gguf-{name}.gguf", changed, {**tensors, **new_tensors})

    def behind(text):
        """Offset just behind a string of the file, given with its length before it."""
        encoded = gguf.encode_string(text)
        return good.index(encoded) + len(encoded)

    # Header: magic, u32 version, u64 tensors, u64 keys, then the first key's u64 length.
    patched("magic", 0, "<4s", b"GGML")
    patched("version", 4, "<I", 2)
    patched("many-tensors", 8, "<Q", 1 << 60)
    patched("long-key", 24, "<Q", (1 << 64) - 1)
    save("gguf-cut.gguf", good[:1000])
    save("gguf-short-data.gguf", good[:-64])
    # A value: u32 type; of an array u32 element type, u64 count.
    patched("value-type", behind("llama.block_count"), "<I", 99)
    patched("long-array", behind("tokenizer.ggml.tokens") + 8, "<Q", 1 << 40)
    # A tensor: u32 rank, u64 dimensions, u32 type, u64 offset.
    matrix, vector = behind("blk.0.attn_q.weight"), behind("output_norm.weight")
    patched("rank", vector, "<I", 9)
    patched("overflow", matrix + 4, "<Q", 1 << 63)
    patched("tensor-type", vector + 12, "<I", 1000)
    patched("offset", vector + 16, "<Q", 1 << 50)
    twice = good.replace(gguf.encode_string("blk.0.attn_k.bias"), gguf.encode_string("blk.0.attn_q.bias"), 1)
    save("gguf-twice.gguf", twice)
    written("no-key", without="llama.attention.head_count")
    scores = [-float(i) for i in range(len(metadata["tokenizer.ggml.tokens"]))]
    written("no-scores", {"tokenizer.ggml.model": "llama"})
    written("no-space", {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": scores})
    written("no-heads", {"llama.attention.head_count": 0})
    written("architecture", {"general.architecture": "mamba"})
    written("extra-tensor", new_tensors={"blk.0.attn_sinks.weight": np.ones(6, np.float32)})
    gain = tensors["output_norm.weight"].copy()
    gain[5] = np.nan
    written("nan", new_tensors={"output_norm.weight": gain})


def make_graph():
    subprocess.run([SYL, "import", FOLDER / "good.gguf", "-o", FOLDER / "good.json"], check=True)
    text = (FOLDER / "good.json").read_text(encoding="utf-8")

    def broken(name, old, new):
        save(f"{name}.json", replaced(text, old, new))

    end = text.rindex("}")
    broken("graph-undefined", '"in": ["q"', '"in": ["p"')
    broken("graph-attribute", '"eps"', '"epsilon"')
    broken("graph-type", "tensor<Txi32>", "tensor<Txi31>")
    broken("graph-block", '"block": "layer"', '"block": "lawyer"')
    save("json-comma.json", text[:end].rstrip() + ",\n}\n")
    save("json-cut.json", text[:end])
    save("json-twice.json", text[:end].rstrip() + ', "sylvester": 1}\n')
    save("json-utf8.json", text.encode("utf-8").replace(b"good.gguf", b"\xff\xfe.gguf"))
    save("json-infinity.json", text[:end].rstrip() + ', "x": 1e999}\n')
    save("json-deep.json", text[:end].rstrip() + ', "x": ' + "[" * 10000 + "]" * 10000 + "}\n")
    save("graph-unknown-key.json", text[:end].rstrip() + ', "sylvestre": 1}\n')
    save("graph-version.json", re.sub(r'("sylvester":\s*)1', r"\g<1>99", text, count=1))
    broken("graph-op", '"rms_norm"', '"rms_nrom"')
    broken("graph-shape", "96x96xreal", "96x95xreal")
    broken("graph-no-tensor", "output_norm.weight", "output_nrom.weight")
    broken("graph-no-file", "good.gguf", "nowhere.gguf")
    patches = """{"sylvester": 1, "name": "p", "inputs": [{"name": "x", "type": "tensor<Bx16xf32>"}, {"name": "i", "type": "tensor<Txi32>"}],
 "nodes": [{"op": "patchify", "in": ["x"], "channels": 1, "height": 4, "width": 4, "patch": 2, "type": "tensor<Tx4xf32>", "out": "y"}],
 "outputs": ["y"]}
"""
    save("graph-patches.json", replaced(patches, '"patch": 2', '"patch": 3'))
    save("graph-patches-rows.json", replaced(patches, "tensor<Tx4xf32>", "tensor<Sx4xf32>"))
    save("graph-patches-type.json", replaced(patches, ' "type": "tensor<Tx4xf32>",', ""))
    save("graph-source.json", text.replace("good.gguf", "good.sir"))


def make_artifact():
    subprocess.run([SYL, "compile", FOLDER / "good.gguf", "-o", FOLDER / "good.syl", "--recipe", "f32"], check=True)
    good = (FOLDER / "good.syl").read_bytes()
    size = struct.unpack_from("<Q", good)[0]
    data = good[8 + size :]

    def written(name, change, body=data):
        """The artifact with `change` applied to its header (a dict, in file order)."""
        header = json.loads(good[8 : 8 + size])
        change(header)
        text = json.dumps(header, ensure_ascii=False).encode("utf-8")
        save(f"{name}.syl", struct.pack("<Q", len(text)) + text + body)

    header = json.loads(good[8 : 8 + size])
    names = sorted((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    first, last = names[0], names[-1]
    matrix = next(name for name in names if len(header[name]["shape"]) == 2 and header[name]["dtype"] == "F32")
    set_tensor = lambda name, key, value: lambda header: header[name].__setitem__(key, value)
    set_metadata = lambda key, value: lambda header: header["__metadata__"].__setitem__(key, value)

    save("artifact-empty.syl", b"")
    save("st-header-size.syl", struct.pack("<Q", len(good)) + good[8:])
    save("st-header.syl", good[:8] + good[8 : 8 + size].replace(b":", b"=", 1) + data)
    save("st-cut.syl", good[: -len(data) // 2])
    written("st-dtype", set_tensor(first, "dtype", "F12"))
    written("st-shape", set_tensor(matrix, "shape", [1 << 40, 1 << 40]))
    written("st-offsets", lambda header: header[matrix]["data_offsets"].reverse())
    written("st-hole", lambda header: None, data + bytes(64))

    written("artifact-version", set_metadata(VERSION_KEY, "99"))
    written("artifact-no-ir", lambda header: header["__metadata__"].pop(IR_KEY))
    ir = header["__metadata__"][IR_KEY]
    written("artifact-syntax", set_metadata(IR_KEY, ir.rstrip()[:-1]))
    written("artifact-op", set_metadata(IR_KEY, replaced(ir, "= linear", "= linaer")))
    written("artifact-shape", lambda header: header[matrix].update(shape=[int(np.prod(header[matrix]["shape"]))]))
    written("artifact-dtype", set_tensor(matrix, "dtype", "I32"))
    written("artifact-missing", lambda header: header.update({"renamed": header.pop(matrix)}))

    def extra(header):
        header["extra"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}

    written("artifact-extra", extra, data + bytes(4))
    begin, _ = header[TOKENIZER]["data_offsets"]
    written("artifact-tokenizer", lambda header: None, data[:begin] + b"[" + data[begin + 1 :])


def make_work():
    """A folder that others may write to; and a model of 8 TiB (a file of holes) whose artifact no disk of a test machine holds."""
    (FOLDER / "open-folder").mkdir(exist_ok=True)
    (FOLDER / "open-folder").chmod(0o777)
    rows, cols = 1 << 21, 1 << 21
    header = json.dumps({"w": {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [0, 2 * rows * cols]}}).encode()
    with open(FOLDER / "huge.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 2 * rows * cols)
    graph = {"sylvester": 1, "name": "huge", "sources": ["huge.safetensors"],
             "inputs": [{"name": "x", "type": f"tensor<Tx{cols}xf32>"}],
             "nodes": [{"op": "weight", "name": "w", "type": f"tensor<{rows}x{cols}xreal>", "out": "w"},
                       {"op": "linear", "in": ["x", "w"], "out": "y"}], "outputs": ["y"]}
    save("huge.json", json.dumps(graph))


def make_hf():
    """Directories: the tiny Qwen3 of the goldens, with one thing wrong."""

    def broken(name, file, change, model="qwen3"):
        tiny_hf.write(FOLDER / name, model)
        path = FOLDER / name / file
        value = json.loads(path.read_text(encoding="utf-8"))
        change(value)
        path.write_text(json.dumps(value), encoding="utf-8")

    config = lambda key, value: lambda c: c.__setitem__(key, value)
    broken("hf-architecture", "config.json", config("architectures", ["Gemma2ForCausalLM"]))
    broken("hf-quantized", "config.json", config("quantization_config", {"quant_method": "awq"}))
    broken("hf-code", "config.json", config("auto_map", {"AutoModel": "model.Model"}))
    broken("hf-rope", "config.json", config("rope_parameters", {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}))
    broken("hf-layers", "config.json", config("num_hidden_layers", 3))
    broken("hf-tensor", "config.json", config("num_hidden_layers", 1))
    broken("hf-heads", "config.json", config("num_key_value_heads", 4))
    broken("hf-tokenizer", "tokenizer.json", lambda t: t["model"].__setitem__("type", "WordPiece"))
    broken("hf-split", "tokenizer.json", lambda t: t["pre_tokenizer"].__setitem__("type", "Whitespace"))
    broken("hf-spaces", "tokenizer.json", lambda t: t["pre_tokenizer"].__setitem__("prepend_scheme", "second"), "mistral")
    broken("hf-bytes", "tokenizer.json", lambda t: t["model"]["vocab"].__setitem__("0", t["model"]["vocab"].pop("<0x80>")), "mistral")
    tiny_hf.write(FOLDER / "hf-no-weights", "qwen3")
    (FOLDER / "hf-no-weights" / "model.safetensors").unlink()


TUNED = ('{"record": "choice", "gpu": "NVIDIA H200", "capability": 90, "sms": 132, "memory_mhz": 3201, "driver": "13000", "nvrtc": "13.0", '
         '"library": "0.1.0", "kernel": "00112233445566778899aabbccddeeff", "rows": 16, "variant": "rows threads=64", '
         '"source": "ffeeddccbbaa99887766554433221100", "name": "quantize", "seconds": 1.25e-06, "tried": 4, "candidates": 6, "budget": 60, '
         '"date": 1700000000}\n')


def make_tuned():
    """A good line stands in front of each bad one: it is not taken either."""
    def broken(name, old, new):
        save(f"tune-{name}.jsonl", TUNED + replaced(TUNED, old, new))

    save("tune-good.jsonl", TUNED)
    save("tune-cut.jsonl", TUNED + TUNED[:-20])
    broken("record", '"choice"', '"chance"')
    broken("time", "1.25e-06", "0")
    broken("hash", "00112233445566778899aabbccddeeff", "../../../../../../../etc/passwd.")
    broken("key", '"tried"', '"tired"')


VERSION_KEY, IR_KEY, TOKENIZER = "sylvester.version", "sylvester.ir", "tokenizer.json"

FOLDER.mkdir(parents=True, exist_ok=True)
make_ir()
make_gguf()
make_graph()
make_hf()
make_work()
make_tuned()
make_artifact()
