/* Reading and writing .npy (npy.h). Nothing of a file is believed: the header is a Python dictionary of which exactly three keys
 * are read, and the shape must account for every byte behind it. */
#include "base/npy.h"

#include <string.h>

typedef struct reader {
    const char *path;
    const char *p, *end; /* of the header's text */
    syl_diag *diag;
} reader;

static syl_status bad(const reader *r, const char *why) {
    return syl_error(r->diag, SYL_ERR_npy_format, SYL_NOWHERE, "\"%s\": %s", r->path, why);
}

static void skip_blanks(reader *r) {
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\t')) r->p++;
}

/* The next token is `word`; moves behind it. */
static bool accept(reader *r, const char *word) {
    size_t n = strlen(word);
    skip_blanks(r);
    if ((size_t)(r->end - r->p) < n || memcmp(r->p, word, n) != 0) return false;
    r->p += n;
    return true;
}

/* A string in quotes of either kind, without escapes. */
static bool text(reader *r, char *out, size_t size) {
    skip_blanks(r);
    if (r->p == r->end || (*r->p != '\'' && *r->p != '"')) return false;
    char quote = *r->p++;
    size_t n = 0;
    while (r->p < r->end && *r->p != quote && *r->p != '\\' && n + 1 < size) out[n++] = *r->p++;
    out[n] = 0;
    if (r->p == r->end || *r->p != quote) return false;
    r->p++;
    return true;
}

static bool number(reader *r, int64_t *out) {
    skip_blanks(r);
    *out = 0;
    const char *start = r->p;
    for (; r->p < r->end && *r->p >= '0' && *r->p <= '9'; r->p++)
        if (__builtin_mul_overflow(*out, 10, out) || __builtin_add_overflow(*out, *r->p - '0', out))
            return false;
    return r->p > start;
}

/* "(3, 4)", "(3,)" */
static syl_status read_shape(reader *r, syl_npy *out) {
    out->elements = 1;
    if (!accept(r, "(")) return bad(r, "the header's shape is no tuple");
    while (!accept(r, ")")) {
        int64_t size;
        if (out->rank == SYL_NPY_MAX_RANK)
            return syl_error(r->diag, SYL_ERR_npy_shape, SYL_NOWHERE, "\"%s\": more than %d dimensions",
                             r->path, SYL_NPY_MAX_RANK);
        if (!number(r, &size)) return bad(r, "the header's shape is not made of numbers");
        if (__builtin_mul_overflow(out->elements, size, &out->elements))
            return syl_error(r->diag, SYL_ERR_npy_shape, SYL_NOWHERE, "\"%s\": the shape overflows", r->path);
        out->dims[out->rank++] = size;
        if (!accept(r, ",")) {
            if (out->rank == 1 || !accept(r, ")")) return bad(r, "the header's shape does not end");
            break;
        }
    }
    if (out->rank == 0)
        return syl_error(r->diag, SYL_ERR_npy_shape, SYL_NOWHERE,
                         "\"%s\": holds a single number, expected an array of 1 to %d dimensions", r->path,
                         SYL_NPY_MAX_RANK);
    return SYL_OK;
}

static syl_status read_type(reader *r, syl_npy *out) {
    char type[32];
    if (!text(r, type, sizeof type)) return bad(r, "the header's descr is no simple type");
    out->is_int = strcmp(type, "<i4") == 0;
    if (out->is_int || strcmp(type, "<f4") == 0) return SYL_OK;
    return syl_error(r->diag, SYL_ERR_npy_type, SYL_NOWHERE,
                     "\"%s\": elements of type '%s', expected '<f4' or '<i4'", r->path, type);
}

static syl_status read_order(reader *r) {
    if (accept(r, "False")) return SYL_OK;
    if (!accept(r, "True")) return bad(r, "the header's fortran_order is neither True nor False");
    return syl_error(r->diag, SYL_ERR_npy_type, SYL_NOWHERE,
                     "\"%s\": the array is in Fortran order, expected C order", r->path);
}

static syl_status read_header(reader *r, syl_npy *out) {
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    unsigned seen = 0;
    if (!accept(r, "{")) return bad(r, "the header is no dictionary");
    while (!accept(r, "}")) {
        char key[16];
        int k = 0;
        if (!text(r, key, sizeof key) || !accept(r, ":")) return bad(r, "the header is malformed");
        while (k < 3 && strcmp(key, keys[k]) != 0) k++;
        if (k == 3 || (seen & 1u << k)) return bad(r, "the header has an unknown or repeated key");
        seen |= 1u << k;
        SYL_TRY(k == 0 ? read_type(r, out) : k == 1 ? read_order(r) : read_shape(r, out));
        if (!accept(r, ",")) {
            if (!accept(r, "}")) return bad(r, "the header is malformed");
            break;
        }
    }
    skip_blanks(r);
    if (seen != 7) return bad(r, "the header lacks descr, fortran_order or shape");
    return r->p == r->end ? SYL_OK : bad(r, "there is text behind the header's dictionary");
}

static syl_status parse(const char *path, syl_diag *diag, syl_npy *out) {
    const unsigned char *data = out->mapping.data;
    size_t size = out->mapping.size;
    reader r = {.path = path, .diag = diag};
    if (size < 12 || memcmp(data, "\x93NUMPY", 6) != 0) return bad(&r, "is no .npy file");
    int major = data[6];
    if (major < 1 || major > 3 || data[7] != 0) return bad(&r, "is of an unknown version of the format");
    size_t start = major == 1 ? 10 : 12;
    size_t length = (size_t)data[8] | (size_t)data[9] << 8;
    if (major > 1) length |= (size_t)data[10] << 16 | (size_t)data[11] << 24;
    if (length > size - start) return bad(&r, "is cut off inside the header");
    r.p = (const char *)data + start;
    r.end = r.p + length;
    SYL_TRY(read_header(&r, out));
    size_t bytes, have = size - start - length;
    if (__builtin_mul_overflow((size_t)out->elements, sizeof(float), &bytes) || bytes != have)
        return syl_error(diag, SYL_ERR_npy_shape, SYL_NOWHERE,
                         "\"%s\": the shape needs %lld elements of 4 bytes, found %zu bytes", path,
                         (long long)out->elements, have);
    if ((start + length) % sizeof(float)) return bad(&r, "its data is not aligned");
    out->data = data + start + length;
    return SYL_OK;
}

syl_status syl_npy_open(const char *path, syl_diag *diag, syl_npy *out) {
    *out = (syl_npy){0};
    SYL_TRY(syl_file_map(path, diag, &out->mapping));
    syl_status status = parse(path, diag, out);
    if (status != SYL_OK) syl_npy_close(out);
    return status;
}

void syl_npy_close(syl_npy *npy) {
    syl_file_unmap(&npy->mapping);
    *npy = (syl_npy){0};
}

/* The header: magic, version, length, the dictionary, padded with spaces to a multiple of 64 that ends with a newline. */
static size_t make_header(const syl_npy *npy, char header[256]) {
    char shape[128];
    int n = 0;
    for (int i = 0; i < npy->rank; i++)
        n += snprintf(shape + n, sizeof shape - (size_t)n, "%s%lld", i ? ", " : "", (long long)npy->dims[i]);
    if (npy->rank == 1) snprintf(shape + n, sizeof shape - (size_t)n, ",");
    n = snprintf(header + 10, 246, "{'descr': '<%s', 'fortran_order': False, 'shape': (%s), }",
                 npy->is_int ? "i4" : "f4", shape);
    size_t total = ((size_t)n + 11 + 63) / 64 * 64;
    memset(header + 10 + n, ' ', total - 10 - (size_t)n);
    header[total - 1] = '\n';
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = (char)((total - 10) & 255);
    header[9] = (char)((total - 10) >> 8);
    return total;
}

syl_status syl_npy_write(const char *path, const syl_npy *npy, syl_diag *diag) {
    char header[256];
    syl_output *file;
    size_t n = make_header(npy, header);
    SYL_TRY(syl_output_open(path, diag, &file));
    syl_status status = syl_output_write(file, header, n);
    if (status == SYL_OK) status = syl_output_write(file, npy->data, (size_t)npy->elements * sizeof(float));
    if (status == SYL_OK) return syl_output_commit(file);
    syl_output_discard(file);
    return status;
}
