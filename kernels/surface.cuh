// The surface of an organ: the device side of kernels/_surface.py.
#pragma once
#include "labels.cuh"
#include "resample.cuh"

constexpr int REACH = 7, TAPS = 2 * REACH + 1;  // of the Gaussian that smooths masks
constexpr int DEEP_I = TILE_I + 2 * REACH + 2, DEEP_J = TILE_J + 2 * REACH + 2, DEEP_K = TILE_K + 2 * REACH + 2;  // what a tile and its neighbours see
constexpr int NEXT_I = TILE_I + 2, NEXT_J = TILE_J + 2, NEXT_K = TILE_K + 2;                                        // a tile and its neighbours
constexpr float UNIT = 1.0f / 2097152.0f;  // 128⁻³: weights of an axis add up to 128
constexpr float CUT = 0.1f, MOST_SHIFT = 0.6f, MOST_STRENGTH = 0.35f, MOST_VOX = 3.0f, MOST_DEPTH = 2.2f, MOST_DEPTH_VOX = 6.0f, HOLD = 16.0f;
constexpr float TO_NORMAL = 4.91f, POWER = 0.14f;  // Tukey's lambda, see kernels/_surface.py

// An axis: weights of distances 0 to 7, one a byte; what makes a difference of two voxels a gradient; sigma; spacing.
struct Axis {
    unsigned long long weights;
    float slope, sigma_mm, mm;
};

// Shared memory of a block near a surface.
struct Masks {
    unsigned long long line[DEEP_I * DEEP_J];  // a bit a voxel along k
    union {
        unsigned char of_k[DEEP_I * DEEP_J][NEXT_K];
        int smooth[NEXT_I][NEXT_J][NEXT_K];
    };
    unsigned short of_j[DEEP_I][NEXT_J][NEXT_K];
};

// Smooth a mask over a tile and its neighbours, by a block of TILE_J · TILE_K threads; integers, so in any order. `is(at)` says whether a
// voxel belongs to the mask; beyond the array, its outermost voxels go on.
// For each voxel of the tile: the label read 14 times from cache, 228 multiplications and additions.
template <class Is>
__device__ void smooth_mask(Masks& masks, const Extent& grid, long long sample, int start_i, int start_j, int start_k, const Axis& on_i, const Axis& on_j,
                            const Axis& on_k, Is is) {
    constexpr int THREADS = TILE_J * TILE_K;
    for (int item = threadIdx.x; item < DEEP_I * DEEP_J; item += THREADS) {
        const int i = start_i + item / DEEP_J - REACH - 1, j = start_j + item % DEEP_J - REACH - 1;
        unsigned long long bits = 0;
#pragma unroll 4  // more would not fit into registers
        for (int k = 0; k < DEEP_K; ++k) bits |= (unsigned long long)is(grid.near(sample, i, j, start_k + k - REACH - 1)) << k;
        masks.line[item] = bits;
    }
    __syncthreads();
    for (int item = threadIdx.x; item < DEEP_I * DEEP_J * NEXT_K; item += THREADS) {
        const unsigned long long bits = masks.line[item / NEXT_K] >> item % NEXT_K;
        int sum = 0;
#pragma unroll
        for (int tap = 0; tap < TAPS; ++tap) sum += (int)(bits >> tap & 1ull) * (int)(on_k.weights >> 8 * abs(tap - REACH) & 255ull);
        masks.of_k[item / NEXT_K][item % NEXT_K] = (unsigned char)sum;
    }
    __syncthreads();
    for (int item = threadIdx.x; item < DEEP_I * NEXT_J * NEXT_K; item += THREADS) {
        const int i = item / (NEXT_J * NEXT_K), j = item / NEXT_K % NEXT_J, k = item % NEXT_K;
        int sum = 0;
#pragma unroll
        for (int tap = 0; tap < TAPS; ++tap) sum += masks.of_k[i * DEEP_J + j + tap][k] * (int)(on_j.weights >> 8 * abs(tap - REACH) & 255ull);
        masks.of_j[i][j][k] = (unsigned short)sum;
    }
    __syncthreads();
    for (int item = threadIdx.x; item < NEXT_I * NEXT_J * NEXT_K; item += THREADS) {
        const int i = item / (NEXT_J * NEXT_K), j = item / NEXT_K % NEXT_J, k = item % NEXT_K;
        int sum = 0;
#pragma unroll
        for (int tap = 0; tap < TAPS; ++tap) sum += masks.of_j[i + tap][j][k] * (int)(on_i.weights >> 8 * abs(tap - REACH) & 255ull);
        masks.smooth[i][j][k] = sum;
    }
    __syncthreads();
}

__device__ __forceinline__ float length_of(float i, float j, float k) { return fmaxf(sqrtf(i * i + j * j + k * k), 1e-6f); }

__device__ __forceinline__ float within(float value, float most) { return fminf(fmaxf(value, -most), most); }

// How far one voxel's source lies from it, in voxels; false where nothing moves. `profile(i, j, k)` says by how much the surface is to move
// there, of standard deviation 1; the voxel is (i, j, k), its place in `masks` (at_i, at_j, at_k).
template <class Profile>
__device__ bool displacement(const Masks& masks, const Extent& grid, int i, int j, int k, int at_i, int at_j, int at_k, const Axis& on_i, const Axis& on_j,
                             const Axis& on_k, float strength_mm, float free, Profile profile, float* moved) {
    const auto smooth = [&](int by_i, int by_j, int by_k) { return (float)masks.smooth[at_i + by_i][at_j + by_j][at_k + by_k]; };
    const float g_i = (smooth(i < grid.n_i - 1, 0, 0) - smooth(-(i > 0), 0, 0)) * on_i.slope;
    const float g_j = (smooth(0, j < grid.n_j - 1, 0) - smooth(0, -(j > 0), 0)) * on_j.slope;
    const float g_k = (smooth(0, 0, k < grid.n_k - 1) - smooth(0, 0, -(k > 0))) * on_k.slope;
    const float size = length_of(g_i, g_j, g_k), share = smooth(0, 0, 0) * UNIT;
    if (size <= CUT) return false;
    float n_i = g_i / on_i.sigma_mm, n_j = g_j / on_j.sigma_mm, n_k = g_k / on_k.sigma_mm;
    const float length = length_of(n_i, n_j, n_k);
    n_i /= length, n_j /= length, n_k /= length;
    const float sigma_mm = length_of(n_i * on_i.sigma_mm, n_j * on_j.sigma_mm, n_k * on_k.sigma_mm);
    const float depth = within((powf(share, POWER) - powf(1.0f - share, POWER)) * TO_NORMAL, MOST_DEPTH) * sigma_mm;
    const float wanted = profile(within(depth * n_i / -on_i.mm, MOST_DEPTH_VOX), within(depth * n_j / -on_j.mm, MOST_DEPTH_VOX),
                                 within(depth * n_k / -on_k.mm, MOST_DEPTH_VOX));
    float shift = fminf(strength_mm / sigma_mm, MOST_STRENGTH) * wanted;
    const float part = shift / MOST_SHIFT, square = part * part;
    shift /= sqrtf(sqrtf(1.0f + square * square));
    const float push = shift / (expf(-0.5f * (shift * shift)) - CUT) * sigma_mm * (1.0f - CUT / size) * free;
    moved[0] = within(push * g_i / on_i.mm, MOST_VOX), moved[1] = within(push * g_j / on_j.mm, MOST_VOX), moved[2] = within(push * g_k / on_k.mm, MOST_VOX);
    return true;
}
