// Composite: contrast × texture × occupancy into the organ's HU, the tumour's number into the label, in place.
#include "images.cuh"
#include "labels.cuh"

constexpr int THREADS = 256;
constexpr int EACH = 4;  // voxels a thread

// Add to a voxel; NaN and infinities stay.
__device__ void add_to(void* image, long long at, int kind, float change) {
    if (kind == FLOAT64) {
        double* voxel = (double*)image + at;
        if (isfinite(*voxel)) *voxel += (double)change;
        return;
    }
    unsigned short* half = (unsigned short*)image + at;
    float* single = (float*)image + at;
    const float value = kind == FLOAT32 ? *single : kind == FLOAT16 ? from_half(*half) : __uint_as_float((unsigned)*half << 16);
    if (!isfinite(value)) return;
    if (kind == FLOAT32) *single = value + change;
    if (kind == FLOAT16) *half = to_half(value + change);
    if (kind == BFLOAT16) *half = to_bfloat16(value + change);
}

// Four voxels in a row a thread, with 8-byte loads where `wide` says that rows of four are aligned. What no lesion reaches is only looked at.
// Bytes: 4 read a voxel, and 2 + 2 · (image + label) where it changes; operations: some 10 there.
extern "C" __global__ void __launch_bounds__(THREADS)
blend_kernel(void* image, void* label, const short* instances, const unsigned short* occupancy, const unsigned short* texture, const float* contrast_hu,
             int image_kind, int label_kind, long long organ, long long tumor, long long voxels, int wide) {
    const long long sample = blockIdx.y, first = (blockIdx.x * (long long)THREADS + threadIdx.x) * EACH;
    if (first >= voxels) return;
    const long long start = sample * voxels + first;
    const int there = (int)min((long long)EACH, voxels - first);
    short number[EACH] = {};
    unsigned short share[EACH] = {};
    if (wide) {
        const short4 numbers = *(const short4*)(instances + start);
        const ushort4 shares = *(const ushort4*)(occupancy + start);
        number[0] = numbers.x, number[1] = numbers.y, number[2] = numbers.z, number[3] = numbers.w;
        share[0] = shares.x, share[1] = shares.y, share[2] = shares.z, share[3] = shares.w;
    } else {
#pragma unroll
        for (int each = 0; each < EACH; ++each)
            if (each < there) number[each] = instances[start + each], share[each] = occupancy[start + each];
    }
#pragma unroll
    for (int each = 0; each < EACH; ++each) {
        if (!number[each] && !share[each]) continue;
        const long long at = start + each;
        if (share[each] && read_label(label, at, label_kind) == organ) {
            const float change = (float)texture[at] * (1.0f / 65535.0f) * ((float)share[each] * (1.0f / 65535.0f)) * contrast_hu[sample];
            if (change != 0.0f) add_to(image, at, image_kind, change);
        }
        if (number[each]) write_label(label, at, label_kind, tumor);
    }
}
