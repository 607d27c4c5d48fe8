// Images of any floating type: the numbers of the types, and their values, read one at a time.
#pragma once

enum { FLOAT32, FLOAT16, BFLOAT16, FLOAT64 };

__device__ __forceinline__ float from_half(unsigned short bits) {
    const unsigned exponent = bits >> 10 & 31u, fraction = bits & 1023u;
    const float value = exponent == 0    ? (float)fraction * 5.9604644775390625e-8f
                        : exponent == 31 ? __uint_as_float(0x7F800000u | fraction << 13)
                                         : __uint_as_float((exponent + 112u) << 23 | fraction << 13);
    return bits & 0x8000u ? -value : value;
}

// To the nearest, ties to even; too large becomes infinite.
__device__ __forceinline__ unsigned short to_half(float value) {
    const unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u, size = bits & 0x7FFFFFFFu;
    if (size >= 0x477FF000u) return (unsigned short)(sign | 0x7C00u);
    if (size < 0x38800000u) return (unsigned short)(sign | (unsigned)__float2int_rn(__uint_as_float(size) * 16777216.0f));
    return (unsigned short)(sign | (size - 0x38000000u + 0xFFFu + (size >> 13 & 1u)) >> 13);
}

__device__ __forceinline__ float from_bfloat16(unsigned short bits) { return __uint_as_float((unsigned)bits << 16); }

__device__ __forceinline__ unsigned short to_bfloat16(float value) {
    const unsigned bits = __float_as_uint(value);
    return (unsigned short)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

// A voxel's value as a float; a double is rounded to the nearest.
__device__ __forceinline__ float read_voxel(const void* image, long long at, int kind) {
    switch (kind) {
        case FLOAT32: return ((const float*)image)[at];
        case FLOAT16: return from_half(((const unsigned short*)image)[at]);
        case BFLOAT16: return from_bfloat16(((const unsigned short*)image)[at]);
        default: return (float)((const double*)image)[at];
    }
}

__device__ __forceinline__ void write_voxel(void* image, long long at, int kind, float value) {
    switch (kind) {
        case FLOAT32: ((float*)image)[at] = value; return;
        case FLOAT16: ((unsigned short*)image)[at] = to_half(value); return;
        case BFLOAT16: ((unsigned short*)image)[at] = to_bfloat16(value); return;
        default: ((double*)image)[at] = (double)value; return;
    }
}

// Add to a voxel; NaN and infinities stay.
__device__ __forceinline__ void add_to(void* image, long long at, int kind, float change) {
    if (kind == FLOAT64) {
        double* voxel = (double*)image + at;
        if (isfinite(*voxel)) *voxel += (double)change;
        return;
    }
    unsigned short* half = (unsigned short*)image + at;
    float* single = (float*)image + at;
    const float value = kind == FLOAT32 ? *single : kind == FLOAT16 ? from_half(*half) : from_bfloat16(*half);
    if (!isfinite(value)) return;
    if (kind == FLOAT32) *single = value + change;
    if (kind == FLOAT16) *half = to_half(value + change);
    if (kind == BFLOAT16) *half = to_bfloat16(value + change);
}
