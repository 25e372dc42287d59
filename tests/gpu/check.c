/* Comparing: the device counts differing bytes, so that large results never leave it. */
#include "check.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char differ_source[] =
    "typedef unsigned long long u64;\n"
    "extern \"C\" __global__ void differ(const unsigned char *a, const unsigned char *b, u64 n, u64 *out) "
    "{\n"
    "    u64 count = 0, first = ~0ull, step = (u64)gridDim.x * blockDim.x;\n"
    "    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)\n"
    "        if (a[i] != b[i]) { count++; if (i < first) first = i; }\n"
    "    if (count) { atomicAdd(out, count); atomicMin(out + 1, first); }\n"
    "}\n";
static const char other_than_source[] =
    "typedef unsigned long long u64;\n"
    "extern \"C\" __global__ void other_than(const unsigned char *a, u64 n, int value, u64 *out) {\n"
    "    u64 count = 0, step = (u64)gridDim.x * blockDim.x;\n"
    "    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) count += a[i] != value;\n"
    "    if (count) atomicAdd(out, count);\n"
    "}\n";

void gpu_checker_create(gpu *g, gpu_checker *out) {
    out->differ = gpu_build(g, "differ", differ_source);
    out->other_than = gpu_build(g, "other_than", other_than_source);
    gpu_enter(g);
    out->counts = gpu_alloc(g, 16);
    gpu_leave(g);
}

static unsigned blocks_for(uint64_t n) {
    uint64_t blocks = (n + 1023) / 1024;
    return (unsigned)(blocks < 1 ? 1 : blocks < 1024 ? blocks : 1024); /* no block at all is an error */
}

uint64_t gpu_differ(gpu *g, const gpu_checker *c, cu_address a, cu_address b, size_t size, uint64_t *first) {
    uint64_t n = size, counts[2] = {0, UINT64_MAX};
    cu_address out = c->counts;
    gpu_put(g, out, counts, sizeof counts);
    void *parameters[] = {&a, &b, &n, &out};
    gpu_launch_plain(g, c->differ, blocks_for(n), 256, parameters);
    gpu_get(g, counts, out, sizeof counts);
    if (first) *first = counts[1];
    return counts[0];
}

uint64_t gpu_other_than(gpu *g, const gpu_checker *c, cu_address a, size_t size, unsigned char value) {
    uint64_t n = size, counts[2] = {0, 0};
    int byte = value;
    cu_address out = c->counts;
    gpu_put(g, out, counts, sizeof counts);
    void *parameters[] = {&a, &n, &byte, &out};
    gpu_launch_plain(g, c->other_than, blocks_for(n), 256, parameters);
    gpu_get(g, counts, out, sizeof counts);
    return counts[0];
}

gpu_error gpu_compare(gpu_run *run, const cu_address *outputs, int64_t rows) {
    gpu_problem *p = run->problem;
    gpu_error e = {.same = true, .row = -1};
    for (int r = 0; r < p->n_results; r++) {
        const gpu_result *result = &p->results[r];
        unsigned char *line = malloc(result->row_bytes + 8);
        if (!line) abort();
        double error = 0, power = 0, largest = -1;
        gpu_error at = {0};
        int64_t n = 0;
        for (int s = 0; s < p->n_sample && p->sample[s] < rows; s++) {
            gpu_get(run->g, line, outputs[r] + (cu_address)p->sample[s] * result->row_bytes,
                    result->row_bytes);
            for (int64_t j = 0; j < result->cols; j++, n++) {
                double got = gpu_element(line, result->dtype, j),
                       expected = result->expected[s * result->cols + j], d = fabs(got - expected);
                if (!(d < INFINITY)) d = INFINITY; /* also a NaN */
                e.same &= got == expected;
                error += d * d;
                power += expected * expected;
                if (d > largest) {
                    largest = d;
                    at = (gpu_error){.row = p->sample[s], .column = j, .got = got, .expected = expected};
                }
            }
        }
        double nmse = error == 0 ? 0 : error / power, root = sqrt(power / (double)(n ? n : 1));
        double relative = largest <= 0 ? 0 : largest / root;
        if (nmse > e.nmse || !(nmse <= INFINITY)) e.nmse = nmse;
        if (e.row < 0 || relative > e.largest) {
            e.largest = relative;
            e.result = r;
            e.row = at.row;
            e.column = at.column;
            e.got = at.got;
            e.expected = at.expected;
        }
        free(line);
    }
    return e;
}

int64_t gpu_compare_host(gpu_run *run, const cu_address *outputs, int64_t rows, gpu_error *out) {
    gpu_problem *p = run->problem;
    int64_t differ = 0;
    for (int r = 0; r < p->n_results; r++) {
        const gpu_result *result = &p->results[r];
        size_t size = result->row_bytes / (size_t)result->cols;
        unsigned char *line = malloc(result->row_bytes + 8);
        if (!line) abort();
        for (int s = 0; result->host && s < p->n_sample && p->sample[s] < rows; s++) {
            const unsigned char *host = (const unsigned char *)result->host + (size_t)s * result->row_bytes;
            gpu_get(run->g, line, outputs[r] + (cu_address)p->sample[s] * result->row_bytes,
                    result->row_bytes);
            for (int64_t j = 0; j < result->cols; j++) {
                if (memcmp(line + (size_t)j * size, host + (size_t)j * size, size) == 0) continue;
                if (differ++ == 0)
                    *out = (gpu_error){.result = r,
                                       .row = p->sample[s],
                                       .column = j,
                                       .got = gpu_element(line, result->dtype, j),
                                       .expected = gpu_element(host, result->dtype, j)};
            }
        }
        free(line);
    }
    return differ;
}
