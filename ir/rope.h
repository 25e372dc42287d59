/* The frequencies of rotary embeddings, for all who compute them. */
#ifndef SYL_IR_ROPE_H
#define SYL_IR_ROPE_H

#include "ir/ir.h"

/* The angle, in radians a position, of pair k (0 <= k < dims/2) of a rope_table: base^(-2k/dims), scaled as the op
 * says. Linear: position interpolation (Chen et al. 2023). llama3: as published with Llama 3.1, slow frequencies
 * (fewer than `low` turns in `original` positions) are divided by `factor`, fast ones (more than `high`) stay, and
 * between them the divisor changes linearly in the number of turns. */
double syl_rope_frequency(const syl_op *rope_table, int64_t k);

/* Scaling `llama3` of one frequency. */
double syl_rope_llama3(double frequency, double factor, double low, double high, int64_t original);

#endif
