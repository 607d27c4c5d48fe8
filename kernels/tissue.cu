// What a scan says about its organ: HU, noise, vessels. Counts and integers throughout, so any order of threads gives the same bits.
//
// `field` is HU less the organ's, in quarters, clamped; UNKNOWN where there is no organ or no finite HU.
#include "images.cuh"
#include "labels.cuh"
#include "tiles.cuh"

constexpr int THREADS = 256;
constexpr int PER_BLOCK = 16384;  // voxels a block tallies: its bins are written once for all of them
constexpr int BINS = 4096;
constexpr int HU_FIRST = -1024;          // the first bin of HU
constexpr int FIELD_MOST = 2047;         // quarter HU: four of it less four neighbours stay within 16 bits
constexpr int SMOOTH_MOST = 511;         // quarter HU: times a sum of weights, within 16 bits
constexpr int WHOLE = 512;               // share of a voxel that is all known
constexpr int WEIGHT_BITS = 5;           // weights of an axis add up to 2⁵
constexpr short UNKNOWN = -32768;
constexpr int REACH_MOST = 15, WIDE_J = TILE_J + 2 * REACH_MOST, WIDE_K = TILE_K + 2 * REACH_MOST;  // voxels that the smoothing reaches

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

// Median in bins of what one block's sample counted, evenly spread within its own bin; `total`, how many there are: of none the median means
// nothing. Each thread adds up its own stretch of bins, then the stretches before it.
__device__ float median(const int* counts, long long& total) {
    constexpr int EACH = BINS / THREADS;
    __shared__ long long sums[THREADS];
    __shared__ float found;
    const int thread = threadIdx.x;
    long long sum = 0, before = 0, all = 0;
    for (int bin = thread * EACH; bin < (thread + 1) * EACH; ++bin) sum += counts[bin];
    __syncthreads();  // a median before this one has been read
    sums[thread] = sum;
    if (thread == 0) found = 0.0f;
    __syncthreads();
    for (int other = 0; other < THREADS; ++other) before += other < thread ? sums[other] : 0, all += sums[other];
    for (int bin = thread * EACH; bin < (thread + 1) * EACH; ++bin) {
        const int own = counts[bin];
        if (2 * before < all && 2 * (before + own) >= all) found = ((float)bin + (0.5f * (float)all - (float)before) / (float)own) - 0.5f;
        before += own;
    }
    __syncthreads();
    total = all;
    return found;
}

// HU of the organ, 0 where there is none, and how many voxels it has: one sample a block.
extern "C" __global__ void __launch_bounds__(THREADS)
organ_kernel(float* organ_hu, int* organ_voxels, const int* counts) {
    long long total;
    const float middle = median(counts + blockIdx.x * (long long)BINS, total);
    if (threadIdx.x == 0) organ_hu[blockIdx.x] = total > 0 ? middle + (float)HU_FIRST : 0.0f, organ_voxels[blockIdx.x] = (int)total;
}

// Noise in the organ, and in quarters of an HU from where on a vessel is told from the noise that smoothing leaves, where its residuals were
// counted too: one sample a block.
extern "C" __global__ void __launch_bounds__(THREADS)
noise_kernel(float* noise_hu, int* threshold, const int* of_noise, const int* of_left, float hu_per_bin, float noises, float least) {
    long long total;
    const float noise = median(of_noise + blockIdx.x * (long long)BINS, total);
    if (threadIdx.x == 0) noise_hu[blockIdx.x] = total > 0 ? noise * hu_per_bin : 0.0f;
    if (!of_left) return;
    const float left = median(of_left + blockIdx.x * (long long)BINS, total);
    if (threadIdx.x == 0) threshold[blockIdx.x] = (int)fmaxf(rintf((total > 0 ? left * hu_per_bin : 0.0f) * noises), least);
}

// HU less the organ's, in quarters: one voxel a thread, blocks (chunks, samples). Bytes: image and label read, 2 written a voxel.
extern "C" __global__ void __launch_bounds__(THREADS)
field_kernel(short* field, const void* image, const void* label, const float* organ_hu, int image_kind, int label_kind, long long organ, long long voxels) {
    const long long voxel = blockIdx.x * (long long)THREADS + threadIdx.x, at = blockIdx.y * voxels + voxel;
    if (voxel >= voxels) return;
    const float value = read_voxel(image, at, image_kind);
    const bool known = read_label(label, at, label_kind) == organ && isfinite(value);
    const int quarters = known ? __float2int_rn(4.0f * clamp_hu(value)) - __float2int_rn(4.0f * organ_hu[blockIdx.y]) : 0;
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

// Weights along an axis, bytes: of distances 0 to 7, then 8 to 15.
struct Weights {
    unsigned long long near, far;
    int reach;

    __device__ int operator[](int step) const {
        const int distance = abs(step);
        return (int)((distance < 8 ? near >> 8 * distance : far >> 8 * (distance - 8)) & 255u);
    }
};

// Smooth one axis, from `first` to `last` steps away: known values and the share that is known side by side. What is not known weighs nothing.
template <class Pair>
__device__ short2 smoothed(const Weights& weights, int first, int last, Pair pair) {
    int sum = 1 << (WEIGHT_BITS - 1), share = sum;
    for (int step = first; step <= last; ++step) {
        const short2 found = pair(step);
        sum += weights[step] * found.x;
        share += weights[step] * found.y;
    }
    return make_short2((short)(sum >> WEIGHT_BITS), (short)(share >> WEIGHT_BITS));
}

// The field smoothed along k, then j: 8 by 32 voxels of a plane a block, blocks (such tiles, planes, samples).
// Bytes: 2 read, 4 written a voxel; operations: 5 a weight, those along k for the rows around as well.
extern "C" __global__ void __launch_bounds__(THREADS)
smooth_plane_kernel(short2* out, const short* field, unsigned long long near_j, unsigned long long far_j, unsigned long long near_k, unsigned long long far_k,
                    int reach_j, int reach_k, int n_j, int n_k) {
    __shared__ short tile[WIDE_J][WIDE_K];
    __shared__ short2 lines[WIDE_J][TILE_K];
    const Weights on_j = {near_j, far_j, reach_j}, on_k = {near_k, far_k, reach_k};
    const int tiles_k = (n_k + TILE_K - 1) / TILE_K, start_j = blockIdx.x / tiles_k * TILE_J, start_k = blockIdx.x % tiles_k * TILE_K;
    const long long plane = (blockIdx.z * (long long)gridDim.y + blockIdx.y) * n_j * n_k;
    const int rows = TILE_J + 2 * reach_j, columns = TILE_K + 2 * reach_k;
    for (int item = threadIdx.x; item < rows * columns; item += THREADS) {
        const int j = start_j + item / columns - reach_j, k = start_k + item % columns - reach_k;
        tile[item / columns][item % columns] = j >= 0 && j < n_j && k >= 0 && k < n_k ? field[plane + (long long)j * n_k + k] : UNKNOWN;
    }
    __syncthreads();
    for (int item = threadIdx.x; item < rows * TILE_K; item += THREADS) {
        const int row = item / TILE_K, column = item % TILE_K;
        lines[row][column] = smoothed(on_k, -reach_k, reach_k, [&](int step) {
            const short hu = tile[row][column + reach_k + step];
            return hu == UNKNOWN ? make_short2(0, 0) : make_short2((short)min(max((int)hu, -SMOOTH_MOST), SMOOTH_MOST), WHOLE);
        });
    }
    __syncthreads();
    const int own_j = threadIdx.x / TILE_K, own_k = threadIdx.x % TILE_K, j = start_j + own_j, k = start_k + own_k;
    if (j >= n_j || k >= n_k) return;
    out[plane + (long long)j * n_k + k] = smoothed(on_j, -reach_j, reach_j, [&](int step) { return lines[own_j + reach_j + step][own_k]; });
}

// What the plane's smoothing has made smoothed along i too, as HU less the organ's in quarters; `plane` voxels lie between neighbours.
__device__ short smooth_value(const short2* pairs, const Weights& weights, long long at, long long voxel, long long plane, long long voxels) {
    const int i = (int)(voxel / plane), last = (int)(voxels / plane) - 1;
    const short2 found =
        smoothed(weights, max(-weights.reach, -i), min(weights.reach, last - i), [&](int step) { return pairs[at + step * plane]; });
    return (short)__float2int_rn(__fdiv_rn((float)(found.x * WHOLE), (float)max((int)found.y, 1)));
}

// The smoothed field in place of the field: one voxel a thread, blocks (chunks, samples). Bytes: 6 read, 2 written a voxel; operations: 5
// a weight.
extern "C" __global__ void __launch_bounds__(THREADS)
smooth_kernel(short* field, const short2* pairs, unsigned long long near, unsigned long long far, int reach, long long plane, long long voxels) {
    const long long voxel = blockIdx.x * (long long)THREADS + threadIdx.x, at = blockIdx.y * voxels + voxel;
    if (voxel >= voxels || field[at] == UNKNOWN) return;
    field[at] = smooth_value(pairs, {near, far, reach}, at, voxel, plane, voxels);
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

// Take vessels away again where so little of the organ is that bright that the scan shows none, and write from where on, in HU, vessels and
// fat are told: 16384 voxels a block, blocks (chunks, samples). Bytes: 1 written a voxel where there are none.
extern "C" __global__ void __launch_bounds__(THREADS)
shown_kernel(unsigned char* vessel, float* foreign_hu, const int* organ_voxels, const int* seen, const int* threshold, int least_permille, long long voxels) {
    const long long sample = blockIdx.y, first = blockIdx.x * (long long)PER_BLOCK, end = min(first + PER_BLOCK, voxels);
    const bool shown = seen[sample] > 0 && 1000ll * seen[sample] >= (long long)least_permille * organ_voxels[sample];
    const float all_hu = 0.25f * (float)threshold[sample];
    if (blockIdx.x == 0 && threadIdx.x == 0) foreign_hu[2 * sample] = shown ? all_hu : 0.0f, foreign_hu[2 * sample + 1] = all_hu;
    if (shown) return;
    for (long long voxel = first + threadIdx.x; voxel < end; voxel += THREADS) vessel[sample * voxels + voxel] = 0;
}

// By how much vessels are brighter than the organ, and fat in it darker, in place of the field: smoothed, of three quarters of the threshold
// nothing, of five all. One voxel a thread, blocks (chunks, samples). Bytes: 6 read, 2 written a voxel; operations: 5 a weight.
extern "C" __global__ void __launch_bounds__(THREADS)
excess_kernel(short* field, const short2* pairs, const float* foreign_hu, unsigned long long near, unsigned long long far, int reach, long long plane,
              long long voxels) {
    const long long voxel = blockIdx.x * (long long)THREADS + threadIdx.x, at = blockIdx.y * voxels + voxel;
    if (voxel >= voxels) return;
    if (field[at] == UNKNOWN) {
        field[at] = 0;
        return;
    }
    const int smooth = smooth_value(pairs, {near, far, reach}, at, voxel, plane, voxels), size = abs(smooth);
    const bool dark = smooth < 0;
    const int all = (int)(4.0f * foreign_hu[2 * blockIdx.y + dark]);
    const int beyond = max((dark ? -field[at] : field[at]) - SMOOTH_MOST, 0), share = min(max(4 * size - 3 * all, 0), 2 * all);
    const int out = (size + beyond) * share / max(2 * all, 1);
    field[at] = (short)(dark ? -out : out);
}
