#!/usr/bin/env python3
"""tokenizer.py MODEL.gguf OUT.json: golden token ids of tricky texts and of conversations (needs tokenizers, jinja2).

The reference is Hugging Face's tokenizers, set up as SmolLM2 was trained: every digit alone, then GPT-2's pattern and byte-level BPE.
Conversations go through the checkpoint's own chat template, with its control tokens cut out as such.
tests/data/tokenizer_smollm2.json was made from SmolLM2-135M-Instruct."""
import json
import sys

import gguf
import jinja2
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

TEXTS = [
    "", " ", "  ", "   x", "x   ", "\n", "\n\n\n", " \n \n", "\t\tif (x):\n\t\t\treturn", "\r\n\r\n", "a\u00a0b", "a\u3000b \u3000c",
    "x\u180ey", "a\u200bb", "a\u2028b\u0085c", "Hello, world!", "hello world", "HELLO WORLD", "it's we're I'LL don't 'tis 's", "'S 'Re rock'n'roll",
    "x=1;y=23;z=456", "1234567890", "3.14159e-10", "\u0663\u0664\u0665 \u09ea\u09eb", "\u00bd\u00b2\u2167 \u2460", "a1b2c3",
    "na\u00efve caf\u00e9", "nai\u0308ve cafe\u0301", "e\u0301\u0302\u0303\u0304", "\u00df\u1e9e\u017f'\u017f", "\u0130\u0131",
    "\u6f22\u5b57\u4eee\u540d\u4ea4\u3058\u308a\u6587", "\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\uc548\ub155\ud558\uc138\uc694", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u0928\u092e\u0938\u094d\u0924\u0947", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440", "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5",
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd ok \u2764\ufe0f", "\U0001f1e9\U0001f1ea", "\U00020000\U0002a6d6",
    "\ufeffbom", "\ufffd\ufffe", "\U0010ffff", "a\u0001b\u007fc", "<|im_start|>user\nhi<|im_end|>", "<|endoftext|>", "<repo_name>x",
    "for (int i = 0; i < n; i++) { sum += a[i] * b[i]; }  // done", "https://example.org/a?b=c&d=%20#e", "C:\\dir\\file.txt", "__init__.py",
    "!!!???...,,,---***", "\u2014\u201cquoted\u201d\u2014\u2026", "\u2200x\u2208\u211d: x\u00b2\u22650", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", " " * 70 + "end",
    "one\n two\n  three\n   four", "The quick brown fox jumps over the lazy dog.", "antidisestablishmentarianism", "\u0f40\u0f0b\u0f41 \u1200\u1208",
]
CHATS = [
    [("user", "What is 2+2?")],
    [("system", "Answer in French."), ("user", "Hello!"), ("assistant", "Bonjour !"), ("user", "  And you?\n")],
    [("user", ""), ("assistant", "\u6f22\u5b57 \U0001f600")],
]


def main():
    metadata = gguf.Reader(sys.argv[1]).metadata
    field = lambda name: metadata["tokenizer." + name]
    tokens, kinds = field("ggml.tokens"), field("ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field("ggml.merges")]

    def tokenizer():
        t = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False, use_regex=True)])
        t.decoder = decoders.ByteLevel()
        return t

    plain, chat = tokenizer(), tokenizer()
    chat.add_special_tokens([AddedToken(token, normalized=False, special=True) for token, kind in zip(tokens, kinds) if kind == 3])
    template = jinja2.Template(field("chat_template"))

    def encode_chat(messages):
        messages = [{"role": role, "content": content} for role, content in messages]
        return chat.encode(template.render(messages=messages, add_generation_prompt=True), add_special_tokens=False).ids

    texts = []
    for text in TEXTS:
        ids = plain.encode(text).ids
        texts.append({"text": text, "ids": ids, "decoded": plain.decode(ids)})
    chats = [{"messages": [list(m) for m in messages], "ids": encode_chat(messages)} for messages in CHATS]
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        rows = lambda items: ",\n".join(json.dumps(item, separators=(",", ":")) for item in items)
        out.write('{"texts":[\n' + rows(texts) + '\n],"chats":[\n' + rows(chats) + "\n]}\n")


if __name__ == "__main__":
    main()
