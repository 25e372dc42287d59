/* Mutates safetensors files so that the change gets behind the first check: every other time the JSON header
 * alone, its length then set right. Linked into the targets of that container, with libFuzzer only. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    uint64_t header = 0;
    for (int i = 7; i >= 0 && size >= 8; i--) header = header << 8 | data[i];
    if (seed % 2 || size < 8 || header > size - 8 || size > max_size)
        return LLVMFuzzerMutate(data, size, max_size);

    size_t tail = size - 8 - (size_t)header, room = max_size - 8 - tail;
    uint8_t *text = malloc(room + 1);
    if (!text) return size;
    memcpy(text, data + 8, (size_t)header);
    size_t fresh = LLVMFuzzerMutate(text, (size_t)header, room);
    memmove(data + 8 + fresh, data + 8 + header, tail);
    memcpy(data + 8, text, fresh);
    free(text);
    for (int i = 0; i < 8; i++) data[i] = (uint8_t)((uint64_t)fresh >> (8 * i));
    return 8 + fresh + tail;
}
