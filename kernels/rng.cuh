// Philox4x32-10 and draws on it: the device side of kernels/rng.py, bit for bit.
//
// One layout: key = (seed low, seed high), counter = (index, purpose << 16 | slot, uid low, uid high).
#pragma once

enum Purpose : unsigned {
    SCAN = 0, COUNT = 1, LESION = 2, ELASTIC = 3, DENSITY = 4, SALT = 5, PLACEMENT = 9, TRAIT = 10, OUTLINE = 11, SITE = 12, GROWTH = 13, FERTILITY = 14,
    NODULE = 15
};

struct Words {
    unsigned word[4];
};

__device__ __forceinline__ Words philox(unsigned long long seed, long long uid, unsigned purpose, unsigned slot, unsigned index) {
    unsigned k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
    unsigned x0 = index, x1 = purpose << 16 | slot, x2 = (unsigned)uid, x3 = (unsigned)((unsigned long long)uid >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned low0 = 0xD2511F53u * x0, high0 = __umulhi(0xD2511F53u, x0);
        const unsigned low1 = 0xCD9E8D57u * x2, high1 = __umulhi(0xCD9E8D57u, x2);
        x0 = high1 ^ x1 ^ k0;
        x2 = high0 ^ x3 ^ k1;
        x1 = low1;
        x3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{x0, x1, x2, x3}};
}

// One of the eight 16-bit words of a block: low halves of its four words, then their high halves.
__device__ __forceinline__ int halfword(const Words& words, int which) {
    const unsigned word = which & 2 ? (which & 1 ? words.word[3] : words.word[2]) : (which & 1 ? words.word[1] : words.word[0]);
    return which & 4 ? word >> 16 : word & 0xFFFFu;
}

// 24 random bits: in [0, 1) exactly, in [low, high) rounded.
__device__ __forceinline__ float to_uniform(unsigned word, float low = 0.0f, float high = 1.0f) {
    return (float)(word >> 8) * 5.9604644775390625e-8f * (high - low) + low;
}

// Uniform in [low, high], both inclusive.
__device__ __forceinline__ long long to_integer(unsigned word, long long low, long long high) {
    return low + ((long long)word * (high - low + 1) >> 32);
}

// Box–Muller: a pair of words to a pair of standard normal numbers, in double, rounded to float.
__device__ __forceinline__ float2 to_normal(unsigned first, unsigned second) {
    const double u = ((double)(first >> 8) + 0.5) * 5.9604644775390625e-8, v = ((double)(second >> 8) + 0.5) * 5.9604644775390625e-8;
    const double radius = sqrt(-2.0 * log(u));
    double sine, cosine;
    sincospi(2.0 * v, &sine, &cosine);
    return make_float2((float)(radius * cosine), (float)(radius * sine));
}
