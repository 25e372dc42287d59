/* Runs a fuzz target on files, and on all files of folders, without libFuzzer: for ctest, and for a look at one
 * finding in a debugger. Fails if it finds no file, so that a lost corpus doesn't pass. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include "fuzz.h"

/* The bytes are a heap block of exactly their number, as in libFuzzer. */
static int run_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(2);
    }
    size_t size = (size_t)ftell(file);
    rewind(file);
    uint8_t *data = malloc(size ? size : 1);
    if (!data || fread(data, 1, size, file) != size) {
        perror(path);
        exit(2);
    }
    fclose(file);
    fprintf(stderr, "%s\n", path); /* if it crashes, the last line says where */
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 1;
}

int main(int argc, char **argv) {
    int n = 0;
    for (int i = 1; i < argc; i++) {
        struct dirent **entries;
        int found = scandir(argv[i], &entries, NULL, alphasort);
        if (found < 0) n += run_file(argv[i]);
        for (int k = 0; k < found; k++) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", argv[i], entries[k]->d_name);
            if (entries[k]->d_name[0] != '.') n += run_file(path);
            free(entries[k]);
        }
        if (found >= 0) free(entries);
    }
    printf("%d files\n", n);
    return n ? 0 : 1;
}
