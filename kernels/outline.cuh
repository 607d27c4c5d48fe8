// Outlines and textures as sums of random waves: the device side of kernels/_outline.py.
#pragma once
#include "rng.cuh"

constexpr int OF_OCTAVE = 8, OUTLINE_WAVES = 24, TEXTURE_WAVES = 12;
constexpr float MEAN_ABS = 0.8f, LEAST = 0.35f, SPIKE_SD = 2.5f;

// Columns of a lesion's row: Trait in kernels/_columns.py.
enum { RADIUS = 0, AXES = 1, ROTATION = 4, IRREGULARITY = 8, LOBULATION = 9, SPICULATION = 10, KIND = 11, BODY = 12, CORE = 13, CORE_SHARE = 14, RIM = 15,
       TEXTURE = 16, TEXTURE_MM = 17, SPECK = 18, SPECK_SHARE = 19, EDGE = 20, REACH = 21, PUSH = 22, BULGE = 23, CAPSULE = 24, CAPSULE_MM = 25, HALO = 26, HALO_MM = 27, PARENT = 28,
       WITHIN_MM = 29, PUSH_MM = 30, TRAITS = 31 };

// A wave vector, its components in [−1, 1), and a phase in [0, 2) half turns.
__device__ __forceinline__ float4 wave_of(unsigned long long seed, unsigned long long uid, int slot, int wave) {
    const Words words = philox(seed, uid, OUTLINE, slot, wave);
    return make_float4(to_uniform(words.word[0]) * 2.0f - 1.0f, to_uniform(words.word[1]) * 2.0f - 1.0f, to_uniform(words.word[2]) * 2.0f - 1.0f,
                       to_uniform(words.word[3]) * 2.0f);
}

__device__ __forceinline__ float sum_of_waves(const float4* waves, int count, float half_turns, float x, float y, float z) {
    float sum = 0.0f;
    for (int n = 0; n < count; ++n) sum += cospif(half_turns * (waves[n].x * x + waves[n].y * y + waves[n].z * z) + waves[n].w);
    return sum * sqrtf(2.0f / (float)count);
}

// How far an outline reaches in a direction, in radii, before it is cut at what it may reach.
__device__ __forceinline__ float radius_at(const float4* waves, float irregularity, float lobulation, float spiculation, float x, float y, float z) {
    const float first = sum_of_waves(waves, OF_OCTAVE, 1.0f, x, y, z), second = sum_of_waves(waves + OF_OCTAVE, OF_OCTAVE, 2.0f, x, y, z);
    const float third = sum_of_waves(waves + 2 * OF_OCTAVE, OF_OCTAVE, 4.0f, x, y, z), spike = fminf(fmaxf(third, 0.0f), SPIKE_SD) / SPIKE_SD;
    const float bumps = 0.8f * first + 0.5f * second + 0.33f * third;
    return fmaxf(1.0f + irregularity * bumps + lobulation * (fabsf(second) - MEAN_ABS) + spiculation * (spike * spike * spike), LEAST);
}

// How far along the ellipsoid's axes an offset lies: 1 on its surface.
__device__ __forceinline__ float3 in_axes(const float* row, float dx, float dy, float dz) {
    const float w = row[ROTATION], x = row[ROTATION + 1], y = row[ROTATION + 2], z = row[ROTATION + 3];
    return make_float3((dx * (1 - 2 * (y * y + z * z)) + dy * (2 * (x * y + w * z)) + dz * (2 * (x * z - w * y))) / row[AXES],
                       (dx * (2 * (x * y - w * z)) + dy * (1 - 2 * (x * x + z * z)) + dz * (2 * (y * z + w * x))) / row[AXES + 1],
                       (dx * (2 * (x * z + w * y)) + dy * (2 * (y * z - w * x)) + dz * (1 - 2 * (x * x + y * y))) / row[AXES + 2]);
}

// Twelve waves in space.
__device__ __forceinline__ float texture_at(const float4* waves, float x, float y, float z) {
    return sum_of_waves(waves + OUTLINE_WAVES, TEXTURE_WAVES, 2.0f, x, y, z);
}
