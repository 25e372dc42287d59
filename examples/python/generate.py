#!/usr/bin/env python3
"""Text from a language model through libsyl.so: ctypes only, no extension to compile.

    generate.py MODEL.syl PROMPT [-n TOKENS] [--temperature X] [--lib PATH]
    generate.py CHECKPOINT|GRAPH.json PROMPT -o OUT.syl [--recipe w8a8]

An artifact is loaded as it is; a checkpoint is compiled first. Structs begin with their size and zeros are the defaults, so only the
fields that are used need be named, as long as they stand in the order of syl/syl.h.
"""
import argparse
import ctypes
import ctypes.util
import os
import sys
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p

TOKEN = CFUNCTYPE(c_int, c_void_p, c_int32, POINTER(c_char), c_size_t)


class Sized(Structure):
    """A struct of syl.h: `size` is filled in, the rest is zero unless given."""

    def __init__(self, **fields):
        super().__init__(size=ctypes.sizeof(type(self)), **fields)


class CompileSettings(Sized):
    _fields_ = [("size", c_size_t), ("recipe", c_char_p)]  # a shorter struct, as an older program would pass it


class GenerateSettings(Sized):
    _fields_ = [("size", c_size_t), ("tokens", c_void_p), ("n_tokens", c_size_t), ("turns", c_void_p), ("n_turns", c_size_t),
                ("prompt", c_char_p), ("prompt_size", c_size_t), ("system", c_char_p), ("raw", c_int), ("max_tokens", c_int64),
                ("temperature", c_double), ("top_k", c_int64), ("top_p", c_double), ("seed", c_uint64), ("token", TOKEN), ("user", c_void_p)]


class Error(Exception):
    pass


class Library:
    """The functions of libsyl.so that are used here, with one instance."""

    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        self.c.syl_version.restype = self.c.syl_instance_error.restype = self.c.syl_status_text.restype = c_char_p
        for name in ("syl_session_destroy", "syl_program_destroy", "syl_instance_destroy"):
            getattr(self.c, name).argtypes = [c_void_p]
            getattr(self.c, name).restype = None
        self.c.syl_instance_error.argtypes = [c_void_p]
        self.c.syl_file_is_artifact.argtypes = [c_char_p]
        self.c.syl_compile_file.argtypes = [c_void_p, c_char_p, c_char_p, c_void_p, c_void_p]
        self.c.syl_program_load.argtypes = [c_void_p, c_char_p, POINTER(c_void_p)]
        self.c.syl_session_create.argtypes = [c_void_p, c_void_p, c_void_p, POINTER(c_void_p)]
        self.c.syl_session_generate.argtypes = [c_void_p, c_void_p, c_void_p, c_void_p, c_void_p]
        self.instance = c_void_p()
        self.check(self.c.syl_instance_create(None, byref(self.instance)))

    def check(self, status):
        if status:
            message = self.c.syl_instance_error(self.instance) or self.c.syl_status_text(status)
            raise Error(message.decode().rstrip())

    def compile(self, source, out, recipe):
        settings = CompileSettings(recipe=recipe.encode())
        self.check(self.c.syl_compile_file(self.instance, os.fsencode(source), os.fsencode(out), byref(settings), None))

    def generate(self, path, prompt, write, tokens, temperature):
        """Calls write(bytes) with each piece of text as it comes; pieces are whole characters."""
        program, session = c_void_p(), c_void_p()
        take = TOKEN(lambda user, id, text, size: (write(ctypes.string_at(text, size)), 1)[1])
        settings = GenerateSettings(prompt=prompt.encode(), max_tokens=tokens, temperature=temperature, token=take)
        try:
            self.check(self.c.syl_program_load(self.instance, os.fsencode(path), byref(program)))
            self.check(self.c.syl_session_create(self.instance, program, None, byref(session)))
            self.check(self.c.syl_session_generate(session, byref(settings), None, None, None))
        finally:
            self.c.syl_session_destroy(session)
            self.c.syl_program_destroy(program)

    def close(self):
        self.c.syl_instance_destroy(self.instance)
        self.instance = c_void_p()


def main():
    parser = argparse.ArgumentParser(description="writes text with a language model")
    parser.add_argument("model", help="an artifact, or with -o a checkpoint or graph")
    parser.add_argument("prompt")
    parser.add_argument("-o", "--output", help="compile to this artifact first")
    parser.add_argument("--recipe", default="w8a8")
    parser.add_argument("-n", "--tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0)
    parser.add_argument("--lib", default=ctypes.util.find_library("syl") or "libsyl.so", help="path of libsyl.so")
    args = parser.parse_args()

    def write(piece):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()

    library = Library(args.lib)
    try:
        path = args.model
        if library.c.syl_file_is_artifact(os.fsencode(path)) == 0 and args.output:
            library.compile(path, args.output, args.recipe)
            path = args.output
        library.generate(path, args.prompt, write, args.tokens, args.temperature)
        write(b"\n")
    except Error as error:
        sys.exit(str(error))
    finally:
        library.close()


if __name__ == "__main__":
    main()
