#!/usr/bin/env python3
"""run_hf.py SYL WORKDIR NAME: the logits of a random small checkpoint in a Hugging Face directory (tiny_hf.py) against NumPy: compiled
with the recipe f32 the relative error must be at most 1e-4, with w8a8 at most 0.2. The graph that `syl import` writes must be read
again and give the same. The same tensors in a GGUF, under the names and in the order of rows of that format, must give the same too."""
import pathlib
import subprocess
import sys

import numpy as np

import gguf
import hf_numpy
import tiny_hf

LIMITS = {"f32": 1e-4, "w8a8": 0.2}


GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def neighbours(x, heads):
    """Rows of q or k with rotary pairs moved from (k, k + dims/2) to (2k, 2k + 1), as for the architecture llama."""
    return x.reshape(heads, 2, -1, x.shape[1]).swapaxes(1, 2).reshape(x.shape)


def write_gguf(path, name, values):
    config = tiny_hf.MODELS[name]["config"]
    architecture = name if name.startswith("qwen") else "llama"
    size = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    metadata = {
        "block_count": config["num_hidden_layers"], "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"], "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"], "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": size, "attention.value_length": size, "rope.dimension_count": size,
        "rope.freq_base": rope.get("rope_theta", config.get("rope_theta")), "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
    }
    tensors = {}
    if rope.get("type") == "linear":
        metadata.update({"rope.scaling.type": "linear", "rope.scaling.factor": rope["factor"]})
    for tensor, value in values.items():
        if architecture == "llama" and (".q_proj.weight" in tensor or ".k_proj.weight" in tensor):
            value = neighbours(value, config["num_attention_heads" if ".q_proj" in tensor else "num_key_value_heads"])
        for old, new in GGUF_NAMES.items():
            tensor = tensor.replace(old + ".", new + ".")
        tensors[tensor] = value.astype(np.float32)
    if rope.get("rope_type") == "llama3":  # GGUF carries divisors, always of 8192 original positions
        config = {**config, "rope_scaling": {**rope, "original_max_position_embeddings": 8192}}
        tensors["rope_freqs.weight"] = (hf_numpy.frequencies({"rope_theta": config["rope_theta"]}, size) / hf_numpy.frequencies(config, size)).astype(np.float32)
    keys = {f"{architecture}.{key}": value for key, value in metadata.items()}
    gguf.write(path, {"general.architecture": architecture, "general.name": name, **keys}, tensors)
    return config


def main(syl, work, name):
    folder = work / name
    tiny_hf.write(folder, name)
    values = {tensor: value for tensor, (_, _, value) in tiny_hf.tensors_of(name).items()}
    vocabulary = len(values["model.embed_tokens.weight"])
    ids = np.random.Generator(np.random.PCG64(7)).integers(0, vocabulary, 200)
    want = hf_numpy.forward(tiny_hf.MODELS[name]["config"], values, ids)
    graph = work / f"{name}.json"
    subprocess.run([syl, "import", folder, "-o", graph], check=True)

    def within(model, recipe, reference):
        artifact, out = work / f"{name}.{recipe}.syl", work / f"{name}.npy"
        subprocess.run([syl, "compile", model, "-o", artifact, "--recipe", recipe], check=True)
        subprocess.run([syl, "logits", artifact, "--ids", ",".join(map(str, ids)), "-o", out], check=True)
        error = np.linalg.norm(np.load(out) - reference) / np.linalg.norm(reference)
        print(f"{model.name} {recipe}: relative error {error:.2e} (limit {LIMITS[recipe]:.0e})")
        return error <= LIMITS[recipe]

    container = work / f"{name}.gguf"
    config = write_gguf(container, name, values)
    return all([within(graph, "f32", want), within(folder, "w8a8", want), within(container, "f32", hf_numpy.forward(config, values, ids))])


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]) else 1)
