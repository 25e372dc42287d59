#!/usr/bin/env python3
"""run_hf.py SYL WORKDIR NAME: the logits of a random small checkpoint in a Hugging Face directory (tiny_hf.py) against NumPy: compiled
with the recipe f32 the relative error must be at most 1e-4, with w8a8 at most 0.2. The graph that `syl import` writes must be read
again and give the same. The same tensors in a GGUF, under the names and in the order of rows of that format, must give the same too.
With a tokenizer of SentencePiece's kind, `syl generate` must write the text that NumPy goes on with, to a prompt and to a user."""
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
    if name == "llama":  # the spelling of its tokenizer.json that means the same as scores
        made = tiny_hf.spm()
        plain = ("[INST]", "[/INST]")
        keys.update({
            "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": [text for text, _, _ in made["pieces"]],
            "tokenizer.ggml.scores": [float(score) for _, score, _ in made["pieces"]],
            "tokenizer.ggml.token_type": [1 if text in plain else kind for text, _, kind in made["pieces"]],
            "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.chat_template": made["templates"]["llama2"],
        })
    gguf.write(path, {"general.architecture": architecture, "general.name": name, **keys}, tensors)
    return config


def text_of(pieces, ids, continues, each):
    """What ids say: the space that the tokenizer puts in front of a text (of each between control tokens) is no part of it."""
    out, inside = b"", continues
    for text, _, kind in (pieces[i] for i in ids):
        if kind == 6:
            data = bytes([int(text[3:5], 16)])
        else:
            data = b"" if kind in (2, 3) else (text if kind == 4 else text.replace("\u2581", " ")).encode()
        if kind in (2, 3, 4):
            inside = not each if kind == 4 else inside and not each
        else:
            data, inside = data if inside else data.removeprefix(b" "), True
        out += data
    return out.decode(errors="replace")


def generates(syl, artifact, name, config, values):
    """Greedy, from a text and from a conversation."""
    made, (spelling, template) = tiny_hf.spm(), tiny_hf.SPM[name]
    next_id = lambda ids: int(np.argmax(hf_numpy.forward(config, values, np.array(ids))[-1]))
    # A text that goes on with a space, which must not be taken for the one in front of a text.
    row = next(row for row in made["texts"] if len(row[spelling]) > 3 and made["pieces"][next_id([1] + row[spelling])][0][0] == "\u2581")
    chat = next(chat for chat in made["chats"] if chat["format"] == template)
    user = chat["messages"][0][1]
    ok = True
    for prompt, ids, options in ((row["text"], [1] + row[spelling], ["--raw"]), (user, chat["ids"], [])):
        new = []
        while len(new) < 24 and 2 not in new:
            new.append(next_id(ids + new))
        want = text_of(made["pieces"], [i for i in new if i != 2], bool(options), spelling == "prepend")
        got = subprocess.run([syl, "generate", artifact, "-p", prompt, "-n", "24", *options], check=True, capture_output=True).stdout.decode()
        print(f"{artifact.name}: {prompt!r} goes on with {got!r}")
        if got.removesuffix("\n") != want:
            print(f"expected {want!r}")
            ok = False
    return ok


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
    ok = [within(graph, "f32", want)]
    if name in tiny_hf.SPM:
        ok.append(generates(syl, work / f"{name}.f32.syl", name, tiny_hf.MODELS[name]["config"], values))
    ok += [within(folder, "w8a8", want), within(container, "f32", hf_numpy.forward(config, values, ids))]
    if name == "llama":
        ok.append(generates(syl, work / f"{name}.f32.syl", name, config, values))
    return all(ok)


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]) else 1)
