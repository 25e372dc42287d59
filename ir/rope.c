#include "ir/rope.h"
#include <math.h>
#include <string.h>

static const double two_pi = 6.283185307179586476925286766559;

double syl_rope_llama3(double frequency, double factor, double low, double high, int64_t original) {
    double turns = (double)original * frequency / two_pi;
    double keep = fmin(1, fmax(0, (turns - low) / (high - low)));
    return frequency * (keep + (1 - keep) / factor);
}

double syl_rope_frequency(const syl_op *op, int64_t k) {
    double dims = (double)syl_attr_int(op, "dims"), factor = syl_attr_float(op, "factor");
    double frequency = pow(syl_attr_float(op, "base"), -2.0 * (double)k / dims);
    const char *scaling = syl_attr_str(op, "scaling");
    if (strcmp(scaling, "linear") == 0) return frequency / factor;
    if (strcmp(scaling, "llama3") == 0)
        return syl_rope_llama3(frequency, factor, syl_attr_float(op, "low"), syl_attr_float(op, "high"),
                               syl_attr_int(op, "original"));
    return frequency;
}
