#!/usr/bin/env python3
"""perplexity_numpy.py MODEL.gguf IDS.npy WINDOWS: perplexity by llama.py in float32, the figure that tests/model/run.py holds `syl
perplexity` to. IDS.npy: the token ids of tests/data/evaluation.txt, by another tokenizer than ours. Protocol: consecutive windows of 2,048
tokens, each alone; the first 4 positions of each are not scored."""
import sys

import numpy as np

import gguf
import llama

model, ids, windows = sys.argv[1], np.load(sys.argv[2]).astype(np.int64), int(sys.argv[3])
reader = gguf.Reader(model)
tensors = llama.tensors_of(reader)
total = scored = 0
for window in ids[: windows * 2048].reshape(windows, 2048):
    logits = llama.forward(reader.metadata, tensors, window, np.float32)[3:-1].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits[np.arange(len(logits)), window[4:]] - np.log(np.exp(logits).sum(axis=1))
    total, scored = total - log_p.sum(), scored + len(log_p)
    print(f"{scored} positions: perplexity {np.exp(total / scored):.4f}", flush=True)
