// Choosing the next token of a row of logits, as runtime/sample.h defines it: a temperature, the top_k likeliest, of these the fewest whose
// probabilities sum to top_p, then one at random; temperature 0: the likeliest. Tokens are ordered by (logit, descending; id, ascending).
//
// One block. Nothing is sorted: a token at a place of the order is found by its key (the logit's bits, made so that they rise with it), eight bits
// at a time, through sums over the 256 values of a digit. Weights exp((logit - largest) / temperature) are whole numbers of 2^-scale, so sums
// have no order and a choice is the same each time. The host sums float64 in order of ids: the two may differ where the random number falls within
// about 2^-scale * tokens (1e-9) of the border between two tokens.
#include "base.cuh"

struct Choice {
    double temperature, top_p;
    int64_t top_k;    // 0: all
    uint64_t random;  // state of SplitMix64
    int64_t chosen;   // tokens so far
    int32_t token;    // the last: an id, or
    int32_t reserved;
};
enum { NOT_A_NUMBER = -1, NOTHING_LEFT = -2 };

struct ChooseArgs {
    const float *logits;
    Choice *state;
    int32_t *ids;   // gets the token: an input of the next step
    int32_t *ring;  // memory of the host: [ring_size], the token goes to place chosen % ring_size
    int32_t n, ring_size;
};

enum { THREADS = 1024, WARPS = THREADS / 32, DIGITS = 256 };

struct Shared {
    unsigned long long sums[DIGITS], scan[DIGITS];
    unsigned long long total;
    float value[WARPS];
    int id[WARPS], bad[WARPS];
    unsigned digit;
    unsigned long long need;
    int32_t token;
};

static_assert(sizeof(Shared) <= 8192, "as many as the launch asks for");

// What is kept: all above `key`, and of those with it the first `ties` by id.
struct Kept {
    uint32_t key;
    unsigned long long ties;
};

__device__ inline uint32_t key_of(float logit) {
    uint32_t bits = __float_as_uint(logit + 0.0f);  // -0 is 0
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float logit_of(uint32_t key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

struct Weights {
    double largest, temperature, unit;
    __device__ unsigned long long operator()(float logit) const {
        double x = ((double)logit - largest) / temperature;
        return x < -50.0 ? 0ull : (unsigned long long)(exp(x) * unit + 0.5);
    }
};
struct Counts {
    __device__ unsigned long long operator()(float) const { return 1ull; }
};

// Adds to sums[digit]; lanes that hold one digit add once. All lanes of a warp take part; `amount` 0 where a lane has nothing.
__device__ inline void add_digit(Shared &s, unsigned digit, unsigned long long amount) {
    unsigned first = __shfl_sync(0xffffffffu, digit, 0);
    if (__all_sync(0xffffffffu, digit == first || amount == 0)) {
        for (int d = 16; d; d /= 2) amount += __shfl_down_sync(0xffffffffu, amount, d);
        if (threadIdx.x % 32 == 0 && amount) atomicAdd(&s.sums[first], amount);
    } else if (amount) {
        atomicAdd(&s.sums[digit], amount);
    }
}

// Sums of the digit at `shift` over kept elements above kept.key whose higher digits are those of `prefix`; scan[d] = sum over digits >= d.
template <class Amount>
__device__ void sum_digits(Shared &s, const ChooseArgs &a, const Kept &kept, uint32_t prefix, int shift, Amount amount) {
    uint32_t mask = shift == 24 ? 0 : 0xffffffffu << (shift + 8);
    if (threadIdx.x < DIGITS) s.sums[threadIdx.x] = 0;
    __syncthreads();
    for (int base = 0; base < a.n; base += THREADS) {
        int i = base + threadIdx.x;
        float logit = i < a.n ? a.logits[i] : 0;
        uint32_t key = key_of(logit);
        bool counts = i < a.n && key > kept.key && (key & mask) == prefix;
        add_digit(s, key >> shift & 255, counts ? amount(logit) : 0);
    }
    __syncthreads();
    if (threadIdx.x < DIGITS) s.scan[threadIdx.x] = s.sums[threadIdx.x];
    __syncthreads();
    for (int d = 1; d < DIGITS; d *= 2) {
        unsigned long long more = threadIdx.x + d < DIGITS ? s.scan[threadIdx.x + d] : 0;
        __syncthreads();
        if (threadIdx.x < DIGITS) s.scan[threadIdx.x] += more;
        __syncthreads();
    }
}

template <class Amount>
__device__ unsigned long long total_of(Shared &s, const ChooseArgs &a, const Kept &kept, Amount amount) {
    sum_digits(s, a, kept, 0, 24, amount);
    unsigned long long total = s.scan[0];
    __syncthreads();
    return total + (kept.ties ? kept.ties * amount(logit_of(kept.key)) : 0);
}

// The first place of the order up to which the amounts sum to `need` (1 .. the total) or more: its key, and its number among those with that
// key, from 1.
template <class Amount>
__device__ Kept find(Shared &s, const ChooseArgs &a, const Kept &kept, unsigned long long need, Amount amount) {
    uint32_t prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        sum_digits(s, a, kept, prefix, shift, amount);
        if (shift == 24 && s.scan[0] < need) {  // among the ties of what is kept
            unsigned long long one = amount(logit_of(kept.key)), rest = need - s.scan[0];
            unsigned long long rank = one ? (rest + one - 1) / one : 1;
            __syncthreads();
            return Kept{kept.key, rank < kept.ties ? rank : kept.ties};
        }
        if (threadIdx.x < DIGITS) {
            unsigned long long above = threadIdx.x + 1 < DIGITS ? s.scan[threadIdx.x + 1] : 0;
            if (above < need && s.scan[threadIdx.x] >= need) {
                s.digit = threadIdx.x;
                s.need = need - above;
            }
        }
        __syncthreads();
        prefix |= s.digit << shift;
        need = s.need;
        __syncthreads();
    }
    unsigned long long one = amount(logit_of(prefix));
    return Kept{prefix, one ? (need + one - 1) / one : 1};
}

// The id of the element with this key that has this number among those with it, by id: threads take ids in order, each a run of them.
__device__ int32_t id_at(Shared &s, const ChooseArgs &a, const Kept &place) {
    int each = (a.n + THREADS - 1) / THREADS, begin = threadIdx.x * each, end = begin + each < a.n ? begin + each : a.n;
    unsigned mine = 0;
    for (int i = begin; i < end; i++) mine += key_of(a.logits[i]) == place.key;
    unsigned before = mine;  // then of this warp up to this lane
    for (int d = 1; d < 32; d *= 2) {
        unsigned other = __shfl_up_sync(0xffffffffu, before, d);
        if (threadIdx.x % 32 >= d) before += other;
    }
    if (threadIdx.x % 32 == 31) s.id[threadIdx.x / 32] = (int)before;
    __syncthreads();
    for (int w = 0; w < (int)threadIdx.x / 32; w++) before += (unsigned)s.id[w];
    before -= mine;
    if (before < place.ties && place.ties <= before + mine) {
        for (int i = begin; i < end; i++)
            if (key_of(a.logits[i]) == place.key && ++before == place.ties) s.token = i;
    }
    __syncthreads();
    return s.token;
}

// The largest logit and its lowest id; *bad where one is NaN or +inf.
__device__ int find_largest(Shared &s, const ChooseArgs &a, float *largest, bool *bad) {
    float best = -__int_as_float(0x7f800000);
    int at = 0, wrong = 0;
    bool any = false;
    for (int i = threadIdx.x; i < a.n; i += THREADS) {
        float x = a.logits[i];
        wrong |= !(x < __int_as_float(0x7f800000));
        if (!any || x > best) best = x, at = i, any = true;
    }
    if (!any) at = a.n;
    for (int d = 16; d; d /= 2) {
        float x = __shfl_down_sync(0xffffffffu, best, d);
        int i = __shfl_down_sync(0xffffffffu, at, d);
        if (x > best || (x == best && i < at)) best = x, at = i;
        wrong |= __shfl_down_sync(0xffffffffu, wrong, d);
    }
    if (threadIdx.x % 32 == 0) s.value[threadIdx.x / 32] = best, s.id[threadIdx.x / 32] = at, s.bad[threadIdx.x / 32] = wrong;
    __syncthreads();
    best = s.value[0], at = s.id[0], wrong = s.bad[0];
    for (int w = 1; w < WARPS; w++) {
        if (s.value[w] > best || (s.value[w] == best && s.id[w] < at)) best = s.value[w], at = s.id[w];
        wrong |= s.bad[w];
    }
    __syncthreads();
    *largest = best;
    *bad = wrong;
    return at;
}

// Upper 53 bits of the next random number.
__device__ inline uint64_t next_random(uint64_t state) {
    uint64_t z = state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ul;
    z = (z ^ z >> 27) * 0x94d049bb133111ebul;
    return (z ^ z >> 31) >> 11;
}

__device__ int32_t draw(Shared &s, const ChooseArgs &a, const Choice &c, float largest, uint64_t random) {
    int scale = 62;
    for (int n = a.n; n; n /= 2) scale--;
    Weights weights = {(double)largest, c.temperature, (double)(1ull << scale)};
    Kept kept = {0, 0};  // no number has key 0
    if (c.top_k && c.top_k < a.n) kept = find(s, a, kept, (unsigned long long)c.top_k, Counts());
    unsigned long long total = total_of(s, a, kept, weights);
    if (c.top_p < 1) {
        double part = ceil(c.top_p * (double)total);
        unsigned long long need = part < 1 ? 1 : part < (double)total ? (unsigned long long)part : total;
        kept = find(s, a, kept, need, weights);
        total = total_of(s, a, kept, weights);
    }
    unsigned long long target = __umul64hi(random << 11, total);
    return id_at(s, a, find(s, a, kept, target + 1, weights));
}

extern "C" __global__ void __launch_bounds__(THREADS) syl_choose(const __grid_constant__ ChooseArgs a) {
    Shared &s = *(Shared *)shared_memory;
    wait_for_previous();
    let_next_begin();
    Choice c = *a.state;
    float largest;
    bool bad;
    int32_t token = find_largest(s, a, &largest, &bad);
    if (bad) token = NOT_A_NUMBER;
    else if (largest == -__int_as_float(0x7f800000)) token = NOTHING_LEFT;
    else if (c.temperature > 0) {
        c.random += 0x9e3779b97f4a7c15ul;
        token = draw(s, a, c, largest, next_random(c.random));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        a.ids[0] = token < 0 ? 0 : token;
        a.ring[c.chosen % a.ring_size] = token;
        c.chosen++;
        c.token = token;
        *a.state = c;
        __threadfence_system();
    }
}
