// What the kernels use of CUDA, for a C++ compiler. What is not here does not compile: no float atomics, no warp intrinsics, no fast math.
#pragma once

#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <math.h>
#include <stdlib.h>

#include "races.hpp"

// ---- the language -----------------------------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static __attribute__((used))  // "used": read before it is written, it must not become a constant zero
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)

#define VECTOR2(name, type, bytes)                       \
    struct alignas(bytes) name {                         \
        type x, y;                                       \
    };                                                   \
    inline name make_##name(type x, type y) { return {x, y}; }
#define VECTOR3(name, type)                              \
    struct name {                                        \
        type x, y, z;                                    \
    };                                                   \
    inline name make_##name(type x, type y, type z) { return {x, y, z}; }
#define VECTOR4(name, type, bytes)                       \
    struct alignas(bytes) name {                         \
        type x, y, z, w;                                 \
    };                                                   \
    inline name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }
VECTOR2(char2, signed char, 2)
VECTOR2(uchar2, unsigned char, 2)
VECTOR2(short2, short, 4)
VECTOR2(ushort2, unsigned short, 4)
VECTOR2(int2, int, 8)
VECTOR2(uint2, unsigned, 8)
VECTOR2(float2, float, 8)
VECTOR2(longlong2, long long, 16)
VECTOR2(ulonglong2, unsigned long long, 16)
VECTOR2(double2, double, 16)
VECTOR3(int3, int)
VECTOR3(uint3, unsigned)
VECTOR3(float3, float)
VECTOR4(char4, signed char, 4)
VECTOR4(uchar4, unsigned char, 4)
VECTOR4(short4, short, 8)
VECTOR4(ushort4, unsigned short, 8)
VECTOR4(int4, int, 16)
VECTOR4(uint4, unsigned, 16)
VECTOR4(float4, float, 16)
#undef VECTOR2
#undef VECTOR3
#undef VECTOR4

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// ---- arithmetic: each operation rounds once ---------------------------------------------------------------------------------------------

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz((unsigned)bits) : 32; }
inline int __clzll(long long bits) { return bits ? __builtin_clzll((unsigned long long)bits) : 64; }

// The overloads of CUDA, no more: what is ambiguous there is ambiguous here. NaN loses against a number.
#define MIN_MAX(result, A, B)                                                            \
    inline result min(A a, B b) { return (result)a < (result)b ? (result)a : (result)b; } \
    inline result max(A a, B b) { return (result)a > (result)b ? (result)a : (result)b; }
#define MIN_MAX_INTEGERS(kind)                  \
    MIN_MAX(kind, kind, kind)                   \
    MIN_MAX(unsigned kind, unsigned kind, unsigned kind) \
    MIN_MAX(unsigned kind, kind, unsigned kind) \
    MIN_MAX(unsigned kind, unsigned kind, kind)
MIN_MAX_INTEGERS(int)
MIN_MAX_INTEGERS(long)
MIN_MAX_INTEGERS(long long)
#undef MIN_MAX_INTEGERS
#undef MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(a, b); }
inline double max(float a, double b) { return fmax(a, b); }
inline double min(double a, float b) { return fmin(a, b); }
inline double max(double a, float b) { return fmax(a, b); }

// sin(πx), cos(πx): the quadrant taken off exactly, within an ulp or two of the rest as on a device.
inline void sincospi(double x, double* sine, double* cosine) {
    const double quarter = rint(2.0 * (x - 2.0 * rint(0.5 * x))), rest = M_PI * ((x - 2.0 * rint(0.5 * x)) - 0.5 * quarter);
    const int turn = isfinite(x) ? (int)quarter & 3 : 0;
    const double s = sin(rest), c = cos(rest);
    *sine = turn == 0 ? s : turn == 1 ? c : turn == 2 ? -s : -c;
    *cosine = turn == 0 ? c : turn == 1 ? -s : turn == 2 ? -c : s;
}
inline double sinpi(double x) { double s, c; return sincospi(x, &s, &c), s; }
inline double cospi(double x) { double s, c; return sincospi(x, &s, &c), c; }
inline void sincospif(float x, float* sine, float* cosine) { double s, c; sincospi(x, &s, &c), *sine = (float)s, *cosine = (float)c; }
inline float sinpif(float x) { return (float)sinpi(x); }
inline float cospif(float x) { return (float)cospi(x); }

// ---- conversions: out of range becomes the nearest integer there is, as the PTX manual says for cvt -------------------------------------

namespace emulator {
template <class To, class From>
To saturated(From rounded) {
    // NaN becomes 0, but the smallest number (largest half of an unsigned) where either side has 64 bits.
    if (rounded != rounded) return sizeof(To) == 8 || sizeof(From) == 8 ? (To)(1ull << (8 * sizeof(To) - 1)) : 0;
    const From low = (From)std::numeric_limits<To>::min(), end = (From)ldexp(1.0, std::numeric_limits<To>::digits);
    return rounded < low ? std::numeric_limits<To>::min() : rounded >= end ? std::numeric_limits<To>::max() : (To)rounded;
}
}  // namespace emulator

#define CONVERSIONS(name, From, To)                                                \
    inline To __##name##_rn(From value) { return emulator::saturated<To>(rint(value)); }  \
    inline To __##name##_rd(From value) { return emulator::saturated<To>(floor(value)); } \
    inline To __##name##_ru(From value) { return emulator::saturated<To>(ceil(value)); }  \
    inline To __##name##_rz(From value) { return emulator::saturated<To>(trunc(value)); }
CONVERSIONS(float2int, float, int)
CONVERSIONS(float2uint, float, unsigned)
CONVERSIONS(float2ll, float, long long)
CONVERSIONS(float2ull, float, unsigned long long)
CONVERSIONS(double2int, double, int)
CONVERSIONS(double2uint, double, unsigned)
CONVERSIONS(double2ll, double, long long)
CONVERSIONS(double2ull, double, unsigned long long)
#undef CONVERSIONS
inline float __int2float_rn(int value) { return (float)value; }
inline float __uint2float_rn(unsigned value) { return (float)value; }
inline float __ll2float_rn(long long value) { return (float)value; }
inline float __ull2float_rn(unsigned long long value) { return (float)value; }
inline float __double2float_rn(double value) { return (float)value; }
inline double __int2double_rn(int value) { return value; }
inline double __ll2double_rn(long long value) { return (double)value; }

inline int __float_as_int(float value) { return __builtin_bit_cast(int, value); }
inline unsigned __float_as_uint(float value) { return __builtin_bit_cast(unsigned, value); }
inline float __int_as_float(int bits) { return __builtin_bit_cast(float, bits); }
inline float __uint_as_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
inline long long __double_as_longlong(double value) { return __builtin_bit_cast(long long, value); }
inline double __longlong_as_double(long long bits) { return __builtin_bit_cast(double, bits); }

// ---- memory -----------------------------------------------------------------------------------------------------------------------------

template <class T> inline T __ldg(const T* at) { return *at; }
template <class T> inline T __ldcs(const T* at) { return *at; }  // hints at what to keep in cache: none here
template <class T> inline T __ldcg(const T* at) { return *at; }
template <class T> inline void __stcs(T* at, T value) { *at = value; }
template <class T> inline void __stcg(T* at, T value) { *at = value; }
inline void __threadfence() {}  // threads take turns on one core, so memory is always in order
inline void __threadfence_block() {}

#define ATOMIC(name, type, expression)                                          \
    UNWATCHED inline type name(type* at, type value) {                          \
        races::touch_atomically(at, sizeof *at, __builtin_return_address(0));   \
        const type old = *at;                                                   \
        *at = (type)(expression);                                               \
        return old;                                                             \
    }
#define ATOMICS(type, Wide)                                                     \
    ATOMIC(atomicAdd, type, (Wide)old + (Wide)value)                            \
    ATOMIC(atomicMin, type, old < value ? old : value)                          \
    ATOMIC(atomicMax, type, old > value ? old : value)                          \
    ATOMIC(atomicAnd, type, old & value)                                        \
    ATOMIC(atomicOr, type, old | value)                                         \
    ATOMIC(atomicXor, type, old ^ value)                                        \
    ATOMIC(atomicExch, type, value)                                             \
    UNWATCHED inline type atomicCAS(type* at, type expected, type value) {      \
        races::touch_atomically(at, sizeof *at, __builtin_return_address(0));   \
        const type old = *at;                                                   \
        *at = old == expected ? value : old;                                    \
        return old;                                                             \
    }
ATOMICS(int, unsigned)
ATOMICS(unsigned, unsigned)
ATOMICS(unsigned long long, unsigned long long)
ATOMIC(atomicSub, int, (unsigned)old - (unsigned)value)
ATOMIC(atomicSub, unsigned, old - value)
ATOMIC(atomicMin, long long, old < value ? old : value)  // CUDA has these two alone for signed 64 bits
ATOMIC(atomicMax, long long, old > value ? old : value)
#undef ATOMICS
#undef ATOMIC

// A sum of floats that depends on the order of threads is no result.
float atomicAdd(float*, float) = delete;
double atomicAdd(double*, double) = delete;
float atomicExch(float*, float) = delete;
