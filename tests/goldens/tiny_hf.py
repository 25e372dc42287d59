"""tiny_hf.py FOLDER NAME: a random small checkpoint of an architecture as a Hugging Face directory, always the same. NumPy only: the
safetensors are written here. NAME is a key of MODELS."""
import json
import pathlib
import struct
import sys

import numpy as np

from tiny_llama import byte_alphabet

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
MODELS = {
    "llama": {
        "config": {
            "architectures": ["LlamaForCausalLM"], "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 2,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0, "tie_word_embeddings": False, "hidden_act": "silu",
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 64},
        },
        "shards": 2,
    },
    "mistral": {
        "config": {
            "architectures": ["MistralForCausalLM"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 24, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "sliding_window": None, "tie_word_embeddings": False,
            "rope_scaling": {"type": "linear", "factor": 2.0},
        },
    },
    "qwen2": {
        "config": {
            "architectures": ["Qwen2ForCausalLM"], "hidden_size": 80, "intermediate_size": 112, "num_hidden_layers": 2,
            "num_attention_heads": 5, "num_key_value_heads": 5, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0, "tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 128,
        },
    },
    "qwen3": {
        "config": {
            "architectures": ["Qwen3ForCausalLM"], "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 20, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "tie_word_embeddings": True,
            "attention_bias": False, "layer_types": ["full_attention", "full_attention"],
        },
        "bf16": True,
    },
}


def bf16_bits(x):
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path, tensors):
    """tensors: name -> (dtype name, array of its bits)."""
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, array) in tensors.items():
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


# Tokenizers of SentencePiece's kind: spelling of the file and chat template (tokenizer_spm.py).
SPM = {"llama": ("prepend", "llama2"), "mistral": ("first", "mistral-v3")}


def spm():
    """What tokenizer_spm.py made."""
    return json.loads((pathlib.Path(__file__).resolve().parents[1] / "data/tokenizer_spm.json").read_text(encoding="utf-8"))


def tokenizer(name):
    """The text of tokenizer.json and how many tokens it has. For SPM as made by tokenizer_spm.py; else a token a byte, a few merges, two
    special tokens."""
    if name in SPM:
        made = spm()
        vocab = {text: i for i, (text, _, _) in enumerate(made["pieces"])}
        return {**made["files"][SPM[name][0]], "model": {**made["model"], "vocab": vocab}}, len(vocab)
    tokens = byte_alphabet() + ["th", "the", "an", "Ġthe", "in", "er"]
    special = ["<|im_start|>", "<|im_end|>"]
    merges = [["t", "h"], ["th", "e"], ["a", "n"], ["Ġ", "the"], ["i", "n"], ["e", "r"]]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": len(tokens) + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, text in enumerate(special)],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "vocab": {text: i for i, text in enumerate(tokens)}, "merges": merges},
    }, len(tokens) + len(special)


def tensors_of(name):
    """name -> (dtype, bits, float64 values), in the order of the file."""
    config, bf16 = MODELS[name]["config"], MODELS[name].get("bf16")
    random = np.random.Generator(np.random.PCG64(list(MODELS).index(name) + 2026))
    tensors = {}

    def add(tensor, values, as_bf16=False):
        if as_bf16:
            bits = bf16_bits(values)
            tensors[tensor] = "BF16", bits, (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        else:
            bits = values.astype(np.float16 if values.ndim == 2 else np.float32)
            tensors[tensor] = "F16" if values.ndim == 2 else "F32", bits, bits.astype(np.float64)

    normal = lambda *shape: random.standard_normal(shape).astype(np.float32)
    width, ffn, heads, kv = (config[k] for k in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"))
    size, vocabulary = config.get("head_dim", width // heads), tokenizer(name)[1]

    def linear(tensor, rows, cols, bias=False):
        add(tensor + ".weight", normal(rows, cols) / np.sqrt(cols), bf16)
        if bias:
            add(tensor + ".bias", 0.3 * normal(rows), bf16)

    add("model.embed_tokens.weight", normal(vocabulary, width), bf16)
    for layer in range(config["num_hidden_layers"]):
        at, bias = f"model.layers.{layer}.", name == "qwen2"
        add(at + "input_layernorm.weight", 1 + 0.3 * normal(width), bf16)
        linear(at + "self_attn.q_proj", heads * size, width, bias)
        linear(at + "self_attn.k_proj", kv * size, width, bias)
        linear(at + "self_attn.v_proj", kv * size, width, bias)
        linear(at + "self_attn.o_proj", width, heads * size)
        if name == "qwen3":
            add(at + "self_attn.q_norm.weight", 1 + 0.3 * normal(size), bf16)
            add(at + "self_attn.k_norm.weight", 1 + 0.3 * normal(size), bf16)
        add(at + "post_attention_layernorm.weight", 1 + 0.3 * normal(width), bf16)
        linear(at + "mlp.gate_proj", ffn, width)
        linear(at + "mlp.up_proj", ffn, width)
        linear(at + "mlp.down_proj", width, ffn)
    add("model.norm.weight", 1 + 0.3 * normal(width), bf16)
    if not config["tie_word_embeddings"]:
        linear("lm_head", vocabulary, width)
    return tensors


def write(folder, name):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text, vocabulary = tokenizer(name)
    bos, eos = (1, 2) if name in SPM else (vocabulary - 2, vocabulary - 1)
    config = {**MODELS[name]["config"], "model_type": name, "vocab_size": vocabulary, "bos_token_id": bos, "eos_token_id": eos,
              "torch_dtype": "float16"}
    put = lambda file, value: (folder / file).write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    put("config.json", config)
    put("generation_config.json", {"eos_token_id": [eos], "bos_token_id": bos})
    put("tokenizer.json", text)
    if name in SPM:
        put("tokenizer_config.json", {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer",
                                      "chat_template": spm()["templates"][SPM[name][1]]})
    else:
        put("tokenizer_config.json", {"add_bos_token": False, "eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"})
    stored = {tensor: (dtype, bits) for tensor, (dtype, bits, _) in tensors_of(name).items()}
    shards = MODELS[name].get("shards", 1)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", stored)
        return
    names, weight_map = list(stored), {}
    for shard in range(shards):  # cut inside a layer
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        write_safetensors(folder / file, {tensor: stored[tensor] for tensor in part})
        weight_map.update({tensor: file for tensor in part})
    put("model.safetensors.index.json", {"metadata": {"total_size": sum(b.nbytes for _, b in stored.values())}, "weight_map": weight_map})


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2])
