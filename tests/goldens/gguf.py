"""A small reader and writer of GGUF v3 (github.com/ggml-org/ggml, docs/gguf.md), independent of the one under test. Needs NumPy only."""
import struct

import numpy as np

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8
ALIGNMENT = 32


def round_bf16(x):
    """The nearest bfloat16 of each float32, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


class Reader:
    """metadata: key -> value. tensor(name) -> float32 array, rows first; block formats are dequantized and rounded to bfloat16."""

    def __init__(self, path):
        self.data = np.memmap(path, np.uint8, "r")
        self.position = 0
        magic, version, n_tensors, n_metadata = self.take("<4sIQQ")
        if magic != b"GGUF" or version != 3:
            raise ValueError(f"{path} is not GGUF v3")
        self.metadata = {}
        for _ in range(n_metadata):
            key = self.string()
            self.metadata[key] = self.value(self.take("<I")[0])
        self.tensors = {}
        for _ in range(n_tensors):
            name = self.string()
            shape = self.take(f"<{self.take('<I')[0]}Q")[::-1]
            self.tensors[name] = (shape, *self.take("<IQ"))
        self.begin = -(-self.position // ALIGNMENT) * ALIGNMENT

    def take(self, layout):
        size = struct.calcsize(layout)
        values = struct.unpack(layout, self.data[self.position : self.position + size].tobytes())
        self.position += size
        return values

    def string(self):
        size = self.take("<Q")[0]
        self.position += size
        return self.data[self.position - size : self.position].tobytes().decode("utf-8")

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            kind, size = self.take("<IQ")
            return [self.value(kind) for _ in range(size)]
        return self.take("<" + SCALARS[kind])[0]

    def tensor(self, name):
        shape, kind, offset = self.tensors[name]
        count = int(np.prod(shape))
        raw = self.data[self.begin + offset :]
        if kind == F32:
            return raw[: 4 * count].view("<f4").reshape(shape).astype(np.float32)
        if kind == F16:
            return raw[: 2 * count].view("<f2").reshape(shape).astype(np.float32)
        if kind == Q8_0:  # 32 codes: f16 scale, 32 x i8
            blocks = raw[: count // 32 * 34].reshape(-1, 34)
            scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
            return round_bf16(blocks[:, 2:].view(np.int8) * scale).reshape(shape)
        if kind == Q4_1:  # 32 codes: f16 scale, f16 minimum, 16 bytes (low halves first)
            blocks = raw[: count // 32 * 20].reshape(-1, 20)
            scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
            low = blocks[:, 2:4].copy().view("<f2").astype(np.float32)
            codes = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
            return round_bf16(codes * scale + low).reshape(shape)
        raise ValueError(f"{name}: type {kind} is not known here")


def encode_string(text):
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def encode_value(value):
    """A Python value as GGUF type number and bytes: int -> u32 (i32 in lists), float -> f32, bool, str, list."""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return STRING, encode_string(value)
    if isinstance(value[0], float):
        kind, items = 6, struct.pack(f"<{len(value)}f", *value)
    elif isinstance(value[0], int):
        kind, items = 5, struct.pack(f"<{len(value)}i", *value)
    else:
        kind, items = STRING, b"".join(map(encode_string, value))
    return ARRAY, struct.pack("<IQ", kind, len(value)) + items


def write(path, metadata, tensors):
    """tensors: name -> float32 or float16 array, rows first."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        kind, data = encode_value(value)
        head += encode_string(key) + struct.pack("<I", kind) + data
    offset, body = 0, []
    for name, array in tensors.items():
        data = np.ascontiguousarray(array).tobytes()
        data += bytes(-len(data) % ALIGNMENT)
        kind = F16 if array.dtype == np.float16 else F32
        head += encode_string(name) + struct.pack(f"<I{array.ndim}QIQ", array.ndim, *array.shape[::-1], kind, offset)
        offset += len(data)
        body.append(data)
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % ALIGNMENT) + b"".join(body))
