/* Draws emoji with compiled models of examples/emoji-dit: one row of pictures a model, all from the same noise.
 *
 *     emoji-draw OUT.png MODEL.syl... [--classes 0,58,96] [--seed N] [--steps N] [--scale N]
 *
 * The sampler of a rectified flow: x runs from noise at t = 1 to the picture at t = 0 in Euler steps of the velocity
 * u + 1.5 (c - u), c with the class and u without. Pictures are channel, row, column; the model cuts its patches itself. */
#include <errno.h>
#include <math.h>
#include <png.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <syl/syl.h>

enum {
    TOKENS = 256,
    SIDE = 32,
    PIXELS = SIDE * SIDE,
    PICTURE = 3 * PIXELS,
    CLASSES = 251,
    MAX_CLASSES = 64,
    MAX_MODELS = 16
};

typedef struct settings {
    const char *out, *models[MAX_MODELS];
    int n_models;
    int32_t classes[MAX_CLASSES];
    int n_classes, steps, scale;
    uint64_t seed;
} settings;

/* ---- the command line ---- */

static bool read_number(const char **text, long long low, long long high, long long *out) {
    char *end;
    errno = 0;
    *out = strtoll(*text, &end, 10);
    if (end == *text || errno || *out < low || *out > high) return false;
    *text = end;
    return true;
}

static bool read_classes(settings *s, const char *text) {
    for (s->n_classes = 0; s->n_classes < MAX_CLASSES; text++) {
        long long value;
        if (!read_number(&text, 0, CLASSES - 1, &value)) return false;
        s->classes[s->n_classes++] = (int32_t)value;
        if (!*text) return true;
        if (*text != ',') return false;
    }
    return false;
}

static bool read_option(settings *s, const char *name, const char *text) {
    long long value;
    if (!text) return false;
    if (strcmp(name, "--classes") == 0) return read_classes(s, text);
    if (!read_number(&text, 0, INT32_MAX, &value) || *text) return false;
    if (strcmp(name, "--seed") == 0) return s->seed = (uint64_t)value, true;
    if (strcmp(name, "--steps") == 0) return s->steps = (int)value, value >= 1 && value <= 1000;
    if (strcmp(name, "--scale") == 0) return s->scale = (int)value, value >= 1 && value <= 16;
    return false;
}

static bool read_settings(settings *s, char **argv) {
    static const int32_t shown[] = {0, 58, 96, 126, 148, 135, 25, 88, 77, 151, 157, 179, 19, 61, 83, 186};
    *s = (settings){.n_classes = sizeof shown / sizeof *shown, .steps = 25, .scale = 2, .seed = 1};
    memcpy(s->classes, shown, sizeof shown);
    for (argv++; *argv; argv++) {
        if (strncmp(*argv, "--", 2) == 0) {
            if (!read_option(s, argv[0], argv[1])) return false;
            argv++;
        } else if (!s->out) {
            s->out = *argv;
        } else if (s->n_models < MAX_MODELS) {
            s->models[s->n_models++] = *argv;
        } else {
            return false;
        }
    }
    return s->out && s->n_models;
}

/* ---- noise: splitmix64 and Box-Muller ---- */

static double uniform(uint64_t *state) { /* in (0, 1) */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return ((double)((z ^ z >> 31) >> 11) + 0.5) * 0x1p-53;
}

static void make_noise(float *x, size_t n, uint64_t seed) {
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(sqrt(-2 * log(uniform(&seed))) * cos(2 * 3.14159265358979323846 * uniform(&seed)));
}

/* ---- sampling ---- */

/* A batch holds each picture twice: with its class, then without one. */
typedef struct batch {
    int pictures;
    float *x, *t; /* [2 pictures][PICTURE], [2 pictures] */
    int32_t *class, *sample, *place;
} batch;

static void free_batch(batch *b) {
    free(b->x);
    free(b->t);
    free(b->class);
    free(b->sample);
    free(b->place);
}

static bool make_batch(const settings *s, batch *b) {
    size_t n = 2 * (size_t)s->n_classes, rows = n * TOKENS;
    *b = (batch){.pictures = s->n_classes,
                 .x = malloc(n * PICTURE * sizeof *b->x),
                 .t = malloc(n * sizeof *b->t),
                 .class = malloc(n * sizeof *b->class),
                 .sample = malloc(rows * sizeof *b->sample),
                 .place = malloc(rows * sizeof *b->place)};
    if (!b->x || !b->t || !b->class || !b->sample || !b->place) return false;
    for (size_t i = 0; i < n; i++) b->class[i] = i < n / 2 ? s->classes[i] : CLASSES;
    for (size_t r = 0; r < rows; r++) {
        b->sample[r] = (int32_t)(r / TOKENS);
        b->place[r] = (int32_t)(r % TOKENS);
    }
    return true;
}

static syl_status sample(syl_session *session, const settings *s, batch *b) {
    int64_t n = 2 * b->pictures, rows = n * TOKENS;
    const size_t size = sizeof(syl_tensor);
    const syl_tensor inputs[] = {{size, "x", "f32", 2, {n, PICTURE}, b->x, 0},
                                 {size, "t", "f32", 1, {n}, b->t, 0},
                                 {size, "class", "i32", 1, {n}, b->class, 0},
                                 {size, "sample", "i32", 1, {rows}, b->sample, 0},
                                 {size, "place", "i32", 1, {rows}, b->place, 0}};
    syl_tensor velocity = {.size = size};
    size_t half = (size_t)b->pictures * PICTURE;
    make_noise(b->x, half, s->seed);
    for (int k = 0; k < s->steps; k++) {
        memcpy(b->x + half, b->x, half * sizeof *b->x);
        for (int64_t i = 0; i < n; i++) b->t[i] = 1 - (float)k / (float)s->steps;
        syl_status status = syl_session_call(session, inputs, sizeof inputs / sizeof *inputs);
        if (status == SYL_OK) status = syl_session_output(session, 0, &velocity);
        if (status != SYL_OK) return status;
        const float *c = velocity.data, *u = c + half;
        for (size_t i = 0; i < half; i++) b->x[i] -= (u[i] + 1.5f * (c[i] - u[i])) / (float)s->steps;
    }
    return SYL_OK;
}

/* ---- pixels ---- */

/* Puts the pictures side by side into row `row` of the image. */
static void paint(const settings *s, const batch *b, int row, unsigned char *image) {
    size_t line = 3 * (size_t)b->pictures * SIDE * (size_t)s->scale;
    for (int p = 0; p < b->pictures; p++)
        for (int y = 0; y < SIDE * s->scale; y++)
            for (int x = 0; x < SIDE * s->scale; x++) {
                int py = y / s->scale, px = x / s->scale;
                const float *from = b->x + (size_t)p * PICTURE + (size_t)(py * SIDE + px);
                unsigned char *pixel = image + (size_t)(row * SIDE * s->scale + y) * line +
                                       3 * ((size_t)p * SIDE * (size_t)s->scale + (size_t)x);
                for (int c = 0; c < 3; c++) {
                    float value = from[c * PIXELS];
                    pixel[c] = (unsigned char)((fminf(fmaxf(value, -1), 1) + 1) * 127.5f);
                }
            }
}

static bool write_image(const settings *s, const unsigned char *image) {
    png_image png = {.version = PNG_IMAGE_VERSION, .format = PNG_FORMAT_RGB};
    png.width = (png_uint_32)(s->n_classes * SIDE * s->scale);
    png.height = (png_uint_32)(s->n_models * SIDE * s->scale);
    if (png_image_write_to_file(&png, s->out, 0, image, 0, NULL)) return true;
    fprintf(stderr, "emoji-draw: cannot write \"%s\": %s\n", s->out, png.message);
    return false;
}

/* ---- the whole ---- */

static void print_message(void *unused, const syl_notice *notice) {
    (void)unused;
    fputs(notice->rendered, stderr);
}

static syl_status draw_model(const settings *s, int row, batch *b, syl_instance *instance,
                             unsigned char *image) {
    syl_program *program;
    syl_session *session = NULL;
    syl_status status = syl_program_load(instance, s->models[row], &program);
    if (status == SYL_OK) status = syl_session_create(instance, program, NULL, &session);
    if (status == SYL_OK) status = sample(session, s, b);
    if (status == SYL_OK) paint(s, b, row, image);
    syl_session_destroy(session);
    syl_program_destroy(program);
    return status;
}

int main(int argc, char **argv) {
    (void)argc;
    settings s;
    if (!read_settings(&s, argv)) {
        fprintf(
            stderr,
            "usage: emoji-draw OUT.png MODEL.syl... [--classes 0,58,96] [--seed N] [--steps N] [--scale N]\n"
            "classes are 0..%d (examples/emoji-dit/classes.txt), at most %d\n",
            CLASSES - 1, MAX_CLASSES);
        return SYL_USAGE;
    }
    batch b = {0};
    syl_instance_options options = {.size = sizeof options, .message = print_message};
    syl_instance *instance;
    syl_status status = syl_instance_create(&options, &instance);
    size_t bytes = 3 * (size_t)(s.n_classes * s.n_models) * SIDE * SIDE * (size_t)(s.scale * s.scale);
    unsigned char *image = malloc(bytes);
    if (status == SYL_OK && (!image || !make_batch(&s, &b))) status = SYL_MEMORY;
    for (int i = 0; i < s.n_models && status == SYL_OK; i++) status = draw_model(&s, i, &b, instance, image);
    if (status == SYL_OK && !write_image(&s, image)) status = SYL_IO;
    free_batch(&b);
    free(image);
    syl_instance_destroy(instance);
    return (int)status;
}
