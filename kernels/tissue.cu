// What a scan says about its organ: HU, noise, vessels. Counts and integers throughout, so any order of threads gives the same bits.
//
// `field` is HU less the organ's, in quarters, clamped; UNKNOWN where there is no organ or no finite HU.
#include "images.cuh"
#include "labels.cuh"

constexpr int THREADS = 256;
constexpr int PER_BLOCK = 16384;  // voxels a block tallies: its bins are written once for all of them
constexpr int BINS = 4096;
constexpr int HU_FIRST = -1024;          // the first bin of HU
constexpr int FIELD_MOST = 2047;         // quarter HU: four of it less four neighbours stay within 16 bits
constexpr int SMOOTH_MOST = 511;         // quarter HU: times a sum of weights, within 16 bits
constexpr int WHOLE = 512;               // share of a voxel that is all known
constexpr int WEIGHT_BITS = 5;           // weights of an axis add up to 2⁵
constexpr short UNKNOWN = -32768;

__device__ __forceinline__ float clamp_hu(float value) { return fminf(fmaxf(value, (float)HU_FIRST), (float)(HU_FIRST + BINS - 1)); }

// Count one block's voxels into bins, and add them to the sample's. `bin(voxel)` is negative where there is nothing to count.
template <class Bin>
__device__ void tally(int* counts, long long voxels, Bin bin) {
    __shared__ int mine[BINS];
    for (int each = threadIdx.x; each < BINS; each += THREADS) mine[each] = 0;
    __syncthreads();
    const long long first = blockIdx.x * (long long)PER_BLOCK, end = min(first + PER_BLOCK, voxels);
    for (long long voxel = first + threadIdx.x; voxel < end; voxel += THREADS) {
        const int found = bin(voxel);
        if (found >= 0) atomicAdd(&mine[min(found, BINS - 1)], 1);
    }
    __syncthreads();
    counts += blockIdx.y * (long long)BINS;
    for (int each = threadIdx.x; each < BINS; each += THREADS)
        if (mine[each]) atomicAdd(&counts[each], mine[each]);
}

// Count the organ's voxels by their HU, rounded: 16384 voxels a block, blocks (chunks, samples).
// Bytes: image and label read a voxel; operations: some 10 and one atomic in shared memory.
extern "C" __global__ void __launch_bounds__(THREADS)
count_kernel(int* counts, const void* image, const void* label, int image_kind, int label_kind, long long organ, long long voxels) {
    const long long start = blockIdx.y * voxels;
    tally(counts, voxels, [=](long long voxel) {
        if (read_label(label, start + voxel, label_kind) != organ) return -1;
        const float value = read_voxel(image, start + voxel, image_kind);
        return isfinite(value) ? __float2int_rn(clamp_hu(value)) - HU_FIRST : -1;
    });
}

// HU less the organ's, in quarters: one voxel a thread, blocks (chunks, samples). Bytes: image and label read, 2 written a voxel.
extern "C" __global__ void __launch_bounds__(THREADS)
field_kernel(short* field, const void* image, const void* label, const int* organ_quarters, int image_kind, int label_kind, long long organ, long long voxels) {
    const long long voxel = blockIdx.x * (long long)THREADS + threadIdx.x, at = blockIdx.y * voxels + voxel;
    if (voxel >= voxels) return;
    const float value = read_voxel(image, at, image_kind);
    const bool known = read_label(label, at, label_kind) == organ && isfinite(value);
    const int quarters = known ? __float2int_rn(4.0f * clamp_hu(value)) - organ_quarters[blockIdx.y] : 0;
    field[at] = known ? (short)min(max(quarters, -FIELD_MOST), FIELD_MOST) : UNKNOWN;
}

// Count voxels by the size of four times their value less their four neighbours in the plane of i and j, `lag` voxels away: those of every
// other plane along i.
// Blocks (chunks, samples). Bytes: 2 read a voxel (neighbours come from cache); operations: some 30 and one atomic in shared memory.
extern "C" __global__ void __launch_bounds__(THREADS)
residual_kernel(int* counts, const short* field, int lag_i, int lag_j, int n_i, int n_j, int n_k) {
    const long long voxels = (long long)n_i * n_j * n_k, step_j = (long long)lag_j * n_k, step_i = (long long)lag_i * n_j * n_k;
    field += blockIdx.y * voxels;
    tally(counts, voxels, [=](long long voxel) {
        const short middle = field[voxel];
        const long long row = voxel / n_k;
        const int j = (int)(row % n_j), i = (int)(row / n_j);
        if (middle == UNKNOWN || (i - lag_i) % 2 || i < lag_i || i >= n_i - lag_i || j < lag_j || j >= n_j - lag_j) return -1;
        const short a = field[voxel - step_i], b = field[voxel + step_i], c = field[voxel - step_j], d = field[voxel + step_j];
        if (a == UNKNOWN || b == UNKNOWN || c == UNKNOWN || d == UNKNOWN) return -1;
        return abs(4 * middle - (a + b + c + d));
    });
}

// Smooth one axis, whose neighbours lie `stride` apart: one voxel a thread, over all samples. Known values and the share that is known go
// side by side; what is not known weighs nothing. `in` is null in the first pass, which reads the field; `value` in all but the last,
// which divides. Weights are bytes: of distances 0 to 7, then 8 to 15. Bytes: 4 read, 4 written a voxel; operations: 4 a weight.
extern "C" __global__ void __launch_bounds__(THREADS)
smooth_kernel(short2* out, short* value, const short2* in, const short* field, unsigned long long near, unsigned long long far, int reach, int n, long long stride,
              long long voxels) {
    const long long at = blockIdx.x * (long long)THREADS + threadIdx.x;
    if (at >= voxels) return;
    const int place = (int)(at / stride % n);
    int sum = 1 << (WEIGHT_BITS - 1), share = sum;
    for (int step = max(-reach, -place); step <= min(reach, n - 1 - place); ++step) {
        const int distance = abs(step), weight = (int)((distance < 8 ? near >> 8 * distance : far >> 8 * (distance - 8)) & 255u);
        const long long from = at + step * stride;
        short2 pair;
        if (in) {
            pair = in[from];
        } else {
            const short hu = field[from];
            pair = make_short2((short)min(max((int)hu, -SMOOTH_MOST), SMOOTH_MOST), WHOLE);
            if (hu == UNKNOWN) pair = make_short2(0, 0);
        }
        sum += weight * pair.x;
        share += weight * pair.y;
    }
    sum >>= WEIGHT_BITS;
    share >>= WEIGHT_BITS;
    if (value)
        value[at] = field[at] == UNKNOWN ? UNKNOWN : (short)__float2int_rn(__fdiv_rn((float)(sum * WHOLE), (float)max(share, 1)));
    else
        out[at] = make_short2((short)sum, (short)share);
}

// Mark and count what is brighter than the sample's threshold: 16384 voxels a block, blocks (chunks, samples). Bytes: 2 read, 1 written.
extern "C" __global__ void __launch_bounds__(THREADS)
vessel_kernel(unsigned char* vessel, int* seen, const short* value, const int* threshold, long long voxels) {
    __shared__ int found;
    if (threadIdx.x == 0) found = 0;
    __syncthreads();
    const long long start = blockIdx.y * voxels, first = blockIdx.x * (long long)PER_BLOCK, end = min(first + PER_BLOCK, voxels);
    int mine = 0;
    for (long long voxel = first + threadIdx.x; voxel < end; voxel += THREADS) {
        const bool bright = value[start + voxel] > threshold[blockIdx.y];
        vessel[start + voxel] = bright;
        mine += bright;
    }
    if (mine) atomicAdd(&found, mine);
    __syncthreads();
    if (threadIdx.x == 0 && found) atomicAdd(&seen[blockIdx.y], found);
}

// By how much vessels are brighter than the organ, and fat in it darker, in place of the field: one voxel a thread, blocks (chunks,
// samples). Of three quarters of the threshold nothing, of five all. Bytes: 4 read, 2 written a voxel.
extern "C" __global__ void __launch_bounds__(THREADS)
excess_kernel(short* field, const short* value, const int* threshold, long long voxels) {
    const long long voxel = blockIdx.x * (long long)THREADS + threadIdx.x, at = blockIdx.y * voxels + voxel;
    if (voxel >= voxels) return;
    if (field[at] == UNKNOWN) {
        field[at] = 0;
        return;
    }
    const bool dark = value[at] < 0;
    const int all = threshold[2 * blockIdx.y + dark], size = abs((int)value[at]);
    const int beyond = max((dark ? -field[at] : field[at]) - SMOOTH_MOST, 0), share = min(max(4 * size - 3 * all, 0), 2 * all);
    const int out = (size + beyond) * share / max(2 * all, 1);
    field[at] = (short)(dark ? -out : out);
}
