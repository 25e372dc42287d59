#!/usr/bin/env python3
"""tokenizer_spm.py OUT.json: a small tokenizer of SentencePiece's kind, and golden token ids of tricky texts and of conversations (needs
sentencepiece, tokenizers, jinja2, protobuf).

The vocabulary is trained by SentencePiece on tests/data/evaluation.txt with the settings of Llama 2. Its ids are by SentencePiece
itself ("spm": what a GGUF with scores must give) and by Hugging Face's tokenizers in the spellings that tokenizer.json files have ("files").
Conversations go through jinja2 and the same tokenizers; the templates are short ones with the expressions of the published ones.
tests/data/tokenizer_spm.json was made by this."""
import io
import json
import pathlib
import sys

import jinja2
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer

import tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
MARK, VOCABULARY = "\u2581", 640
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
TEXTS = [text for text in tokenizer.TEXTS if len(text) < 200] + [
    "a", "a b", " a", "  a", "a  b", "a ", "\n a", "the the", " <cab>", "a<cab>b", "a <cab> b", "<cab><cab>", "<cab>  the", "<s>the</s>",
    "<0x41>", "<unk>", "[INST] the [/INST]", "\u2581the", "a\u2581b",
]

LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}
{%- else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}
{%- if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
{%- else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
{%- else %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
FIRST = """{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- else %}{{ message['content'] + eos_token%s }}{% endif %}{% endfor %}"""
LATER = """{%% if messages[0]["role"] == "system" %%}{%% set system_message = messages[0]["content"] %%}{%% set messages = messages[1:] %%}{%% endif %%}
{{- bos_token }}{%% for message in messages %%}{%% if message["role"] == "user" %%}
{%%- if loop.%s and system_message is defined %%}{{- "%s[INST] " + system_message + "\\n\\n" + message["content"] + "%s[/INST]" }}
{%%- else %%}{{- "%s[INST] " + message["content"] + "%s[/INST]" }}{%% endif %%}{%% else %%}{{- " " + message["content"]%s + eos_token }}{%% endif %%}{%% endfor %%}"""
TEMPLATES = {
    "llama2": LLAMA2,
    "mistral-v0.1": FIRST.replace("%s", " + ' '"),
    "mistral-v0.2": FIRST.replace("%s", ""),
    "mistral-v1": LATER % ("first", " ", " ", " ", " ", ""),
    "mistral-v3": LATER % ("last", "", "", "", "", "|trim"),
}
CHATS = [
    [("user", "What is 2+2?")],
    [("user", " the \n"), ("assistant", " It is.\n"), ("user", "")],
    [("system", " Be nice. "), ("user", " Hello!"), ("assistant", "The end."), ("user", "  And you?\n")],
    [("system", "x"), ("user", " ")],
]


def train():
    model = io.BytesIO()
    lines = (ROOT / "tests/data/evaluation.txt").read_text(encoding="utf-8").splitlines()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=VOCABULARY, byte_fallback=True, split_digits=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, character_coverage=0.999,
        control_symbols=["[INST]", "[/INST]"], user_defined_symbols=["<cab>"], num_threads=1, minloglevel=2)
    return model.getvalue()


def merges_of(pieces):
    """Every way to make a piece of two, the best-scored piece first, as conversions of SentencePiece models list them."""
    ids = {text: i for i, (text, _, kind) in enumerate(pieces) if kind == NORMAL}
    merges = []
    for text, score, kind in pieces:
        if kind == NORMAL:
            parts = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in ids and text[i:] in ids]
            merges += [(score, pair) for pair in sorted(parts, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    return [list(pair) for score, pair in sorted(merges, key=lambda merge: merge[0], reverse=True)]


def files_of(pieces):
    """What tokenizer.json files differ in, by a name of the spelling."""
    def added(special):
        return [{"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": kind != USER}
                for i, (text, _, kind) in enumerate(pieces) if kind in (UNKNOWN, USER) or text in special]

    metaspace = lambda scheme, split: {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": split}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    back = [{"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    bos = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    old, new = ["<s>", "</s>"], ["<s>", "</s>", "[INST]", "[/INST]"]

    def file(normalizer, pre, prefixed, special):
        return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added(special), "normalizer": normalizer,
                "pre_tokenizer": pre, "post_processor": bos, "decoder": {"type": "Sequence", "decoders": back + [strip] * prefixed}}

    return {
        "prepend": file({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": MARK}, replace]}, None, True, old),
        "replace": file(replace, None, False, old),
        "first": file(None, metaspace("first", False), True, new),
        "always": file(None, metaspace("always", True), True, old),
        "never": file(None, metaspace("never", False), False, old),
    }


def main():
    proto = train()
    parsed = sentencepiece_model_pb2.ModelProto.FromString(proto)
    pieces = [(piece.piece, piece.score, piece.type) for piece in parsed.pieces]
    spm = sentencepiece.SentencePieceProcessor(model_proto=proto)
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": {}, "merges": merges_of(pieces)}
    whole = {**model, "vocab": {text: i for i, (text, _, _) in enumerate(pieces)}}  # the file leaves out what follows from the pieces
    files = files_of(pieces)
    references, plain = {}, {}
    for name, file in files.items():
        references[name] = Tokenizer.from_str(json.dumps({**file, "model": whole}))
        # Names of control tokens in a text are text: without those as added tokens, they can't be found.
        users = [token for token in file["added_tokens"] if not token["special"]]
        plain[name] = Tokenizer.from_str(json.dumps({**file, "added_tokens": users, "model": whole, "post_processor": None}))
    texts = []
    for text in TEXTS:
        row = {"text": text, "spm": None if "<cab>" in text else spm.encode(text)}
        row.update({name: t.encode(text, add_special_tokens=False).ids for name, t in plain.items()})
        if row["spm"] is not None and row["spm"] != row["prepend"]:
            print(f"SentencePiece and tokenizers differ on {text!r}")
        texts.append(row)
    chats = []
    for name, template in TEMPLATES.items():
        file = "first" if name == "mistral-v3" else "prepend"
        for messages in CHATS:
            if messages[0][0] == "system" and name in ("mistral-v0.1", "mistral-v0.2"):
                continue
            text = jinja2.Template(template).render(messages=[{"role": role, "content": content} for role, content in messages],
                                                    bos_token="<s>", eos_token="</s>")
            chats.append({"format": name, "file": file, "messages": [list(m) for m in messages],
                          "ids": references[file].encode(text, add_special_tokens=False).ids})
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        dump = lambda value: json.dumps(value, separators=(",", ":"))
        rows = lambda items: ",\n".join(dump(item) for item in items)
        out.write('{"pieces":' + dump([[text, int(score), kind] for text, score, kind in pieces]) + ',\n"model":' + dump(model) + ',\n"files":{\n')
        out.write(",\n".join(dump(name) + ":" + dump(file) for name, file in files.items()))
        out.write('\n},\n"templates":{\n' + ",\n".join(dump(name) + ":" + dump(template) for name, template in TEMPLATES.items()))
        out.write('\n},\n"texts":[\n' + rows(texts) + '\n],\n"chats":[\n' + rows(chats) + "\n]}\n")


if __name__ == "__main__":
    main()
