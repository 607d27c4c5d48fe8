// Salt noise, denser here than there, smoothed to grains: see kernels/texture.py for what is drawn and why it is the same everywhere.
//
// Density is integer arithmetic from the noise to the toss, so that every device tosses the same salt. Grain is stored as 16-bit shares.
#include "rng.cuh"
#include "smoothing.cuh"
#include "tiles.cuh"

constexpr int HALFWORDS = 8;
constexpr int PARTS = 256;  // threads of gain_kernel

// Cells of a field: a window of them, and how many the whole has along j and k.
struct Cells {
    int first_i, first_j, first_k, n_j, whole_j, whole_k;
    __device__ int i_of(long long line) const { return first_i + (int)(line / n_j); }
    __device__ int j_of(long long line) const { return first_j + (int)(line % n_j); }
};

// How a density in integers becomes a probability of salt.
struct Norm {
    int low;
    float slope, offset;
    __device__ Norm(const int* lows, const int* highs, const float* scales, const float* offsets, long long sample)
        : low(lows[sample]), slope(scales[sample] / (float)max(highs[sample] - lows[sample], 1)), offset(offsets[sample]) {}
    __device__ float operator()(int density) const { return (float)(density - low) * slope + offset; }
};

// Draw uniform noise and smooth it along k. Also clears `low` and `high`, where given, for density_columns_kernel.
// Bytes: 4 written a cell; operations: a block of Philox and 8σ + 1 products a cell.
extern "C" __global__ void __launch_bounds__(256, 2)
noise_lines_kernel(int* out, int* low, int* high, const int* weights, const int* band, const long long* uid, unsigned long long seed, int n, int m, long long lines,
                   int first_i, int first_j, int first_k, int n_j, int whole_j, int whole_k) {
    const long long sample = blockIdx.z;
    const Cells cells = {first_i, first_j, first_k, n_j, whole_j, whole_k};
    const unsigned long long mine = (unsigned long long)uid[sample];
    const unsigned blocks = (unsigned)((whole_k + HALFWORDS - 1) / HALFWORDS);
    if (low && blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0 && threadIdx.y == 0) low[sample] = 0x7FFFFFFF, high[sample] = -0x7FFFFFFF;
    out += sample * lines * n;
    smooth_lines<int, long long>(
        weights + sample * n * m, band + sample * 2 * n, n, m, lines,
        [=](long long line, int column) {
            const int k = cells.first_k + column;
            const unsigned index = ((unsigned)cells.i_of(line) * whole_j + cells.j_of(line)) * blocks + k / HALFWORDS;
            return halfword(philox(seed, mine, DENSITY, 0, index), k % HALFWORDS) - 32768;
        },
        [=](long long line, int row, long long sum) { out[line * n + row] = (int)sum; });
}

// Smooth the density along j (outer: cells along i) or i (outer 1), back to the noise's unit, and find its least and greatest value where asked.
// Bytes: 4 read, 4 written a cell; operations: 8σ + 1 products of 64 bits.
extern "C" __global__ void __launch_bounds__(ACROSS)
density_columns_kernel(int* out, int* low, int* high, const int* in, const int* weights, const int* band, int n, int m, long long inner, int outer) {
    __shared__ int ends[2];
    const long long sample = blockIdx.z / outer;
    int least = 0x7FFFFFFF, greatest = -0x7FFFFFFF;
    in += blockIdx.z * inner * m;
    out += blockIdx.z * inner * n;
    smooth_columns<int, long long>(
        weights + sample * n * m, band + sample * 2 * n, n, m, inner, [=](int column, long long place) { return in[column * inner + place]; },
        [&](int row, long long place, long long sum) {
            const int value = (int)(sum >> 15);
            out[row * inner + place] = value;
            least = min(least, value);
            greatest = max(greatest, value);
        });
    if (!low) return;
    if (threadIdx.x == 0) ends[0] = least, ends[1] = greatest;
    __syncthreads();
    atomicMin(&ends[0], least);
    atomicMax(&ends[1], greatest);
    __syncthreads();
    if (threadIdx.x == 0) atomicMin(&low[sample], ends[0]), atomicMax(&high[sample], ends[1]);
}

// Smooth the probability of salt along k, for the mean of the grain. Bytes: 4 read, 4 written a cell.
extern "C" __global__ void __launch_bounds__(256, 2)
mean_lines_kernel(float* out, const int* density, const float* weights, const int* band, const int* low, const int* high, const float* scale, const float* offset,
                  int n, int m, long long lines) {
    const long long sample = blockIdx.z;
    const Norm norm(low, high, scale, offset, sample);
    density += sample * lines * m;
    out += sample * lines * n;
    smooth_lines<float, float>(
        weights + sample * n * m, band + sample * 2 * n, n, m, lines, [=](long long line, int column) { return norm(density[line * m + column]); },
        [=](long long line, int row, float sum) { out[line * n + row] = sum; });
}

// Smooth it along i, and add up the grain that lies above the threshold: three Gauss–Hermite nodes of the salt's variance a cell. Each block
// leaves one partial sum, and one count in sixths of a cell. Bytes: 4 read a cell; operations: 8σ + 1 products, a root.
extern "C" __global__ void __launch_bounds__(ACROSS)
moments_kernel(float* totals, int* counts, const float* in, const float* weights, const int* band, const float* squares_i, const float* squares_j,
               const float* squares_k, float threshold, int n, long long inner, int n_k) {
    __shared__ float total[ACROSS];
    __shared__ int count[ACROSS];
    const long long sample = blockIdx.z;
    const int n_j = (int)(inner / n_k), thread = threadIdx.x;
    float mine = 0.0f;
    int above = 0;
    in += sample * inner * n;
    squares_i += sample * n;
    squares_j += sample * n_j;
    squares_k += sample * n_k;
    smooth_columns<float, float>(
        weights + sample * n * n, band + sample * 2 * n, n, n, inner, [=](int column, long long place) { return in[column * inner + place]; },
        [&](int row, long long place, float mean) {
            const float spread = squares_i[row] * squares_j[place / n_k] * squares_k[place % n_k];
            const float step = 1.7320508f * sqrtf(fmaxf(mean * (1.0f - mean) * spread, 0.0f));
            if (mean - step > threshold) mine += (mean - step) * (1.0f / 6.0f), above += 1;
            if (mean > threshold) mine += mean * (4.0f / 6.0f), above += 4;
            if (mean + step > threshold) mine += (mean + step) * (1.0f / 6.0f), above += 1;
        });
    total[thread] = mine;
    count[thread] = above;
    __syncthreads();
    for (int half = ACROSS / 2; half > 0; half /= 2) {
        if (thread < half) total[thread] += total[thread + half], count[thread] += count[thread + half];
        __syncthreads();
    }
    const long long block = (sample * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    if (thread == 0) totals[block] = total[0], counts[block] = count[0];
}

// One sample a block: factor from grain to texture, the drawn gain over the grain's mean (1 where none is above the threshold).
extern "C" __global__ void __launch_bounds__(PARTS)
gain_kernel(float* gain, const float* drawn, const float* totals, const int* counts, int parts) {
    __shared__ float total[PARTS];
    __shared__ long long count[PARTS];
    const int thread = threadIdx.x, sample = blockIdx.x;
    float mine = 0.0f;
    long long above = 0;
    for (int part = thread; part < parts; part += PARTS) mine += totals[(long long)sample * parts + part], above += counts[(long long)sample * parts + part];
    total[thread] = mine;
    count[thread] = above;
    __syncthreads();
    for (int half = PARTS / 2; half > 0; half /= 2) {
        if (thread < half) total[thread] += total[thread + half], count[thread] += count[thread + half];
        __syncthreads();
    }
    if (thread == 0) gain[sample] = count[0] > 0 ? drawn[sample] / (total[0] / ((float)count[0] * (1.0f / 6.0f))) : drawn[sample];
}

// Toss each cell's salt and smooth it along k, from cells to voxels, where a tile that changes is near enough to see it.
// Bytes: 4 read, 2 written a cell and voxel along k; operations: a block of Philox a cell, 8σ / cell + 1 products a voxel.
extern "C" __global__ void __launch_bounds__(256, 2)
salt_lines_kernel(unsigned short* out, const int* density, const float* weights, const int* band, const int* low, const int* high, const float* scale,
                  const float* offset, const long long* uid, const unsigned char* changing, unsigned long long seed, int n, int m, long long lines, int first_i,
                  int first_j, int first_k, int n_j, int whole_j, int whole_k, int cell_i, int cell_j, int cell_k, int reach_i, int reach_j, int origin_i,
                  int origin_j, int tiles_i, int tiles_j, int tiles_k) {
    const long long sample = blockIdx.z, line = blockIdx.y * (long long)TILE + threadIdx.x;
    const Cells cells = {first_i, first_j, first_k, n_j, whole_j, whole_k};
    const Tiles tiles = {changing, tiles_i, tiles_j, tiles_k};
    const int i = cells.i_of(line) * cell_i - origin_i, j = cells.j_of(line) * cell_j - origin_j, k = blockIdx.x * TILE;
    const bool needed = threadIdx.y == 0 && line < lines &&
                        tiles.near(sample, i - reach_i, i + cell_i - 1 + reach_i, j - reach_j, j + cell_j - 1 + reach_j, k, k + TILE - 1);
    if (!__syncthreads_or(needed)) return;
    const Norm norm(low, high, scale, offset, sample);
    const unsigned long long mine = (unsigned long long)uid[sample];
    const int voxels = cell_i * cell_j * cell_k;
    density += sample * lines * m;
    out += sample * lines * n;
    smooth_lines<float, float>(
        weights + sample * n * m, band + sample * 2 * n, n, m, lines,
        [=](long long line, int column) {
            const unsigned index = ((unsigned)cells.i_of(line) * whole_j + cells.j_of(line)) * whole_k + cells.first_k + column;
            const Words words = philox(seed, mine, SALT, 0, index);
            const int level = (int)ceilf(norm(density[line * m + column]) * 65536.0f);
            int salt = 0;
#pragma unroll
            for (int which = 0; which < HALFWORDS; ++which) salt += which < voxels && halfword(words, which) < level;
            return (float)salt / (float)voxels;
        },
        [=](long long line, int row, float sum) { out[line * n + row] = to_share(sum); });
}

// Smooth the grain along j, from cells to voxels (outer: cells along i). Bytes: 2 read, 2 written; operations as above.
extern "C" __global__ void __launch_bounds__(ACROSS)
grain_columns_kernel(unsigned short* out, const unsigned short* in, const float* weights, const int* band, const unsigned char* changing, int n, int m,
                     long long inner, int outer, int first_i, int cell_i, int reach_i, int origin_i, int tiles_i, int tiles_j, int tiles_k) {
    const long long sample = blockIdx.z / outer, place = blockIdx.x * (long long)ACROSS + threadIdx.x;
    const Tiles tiles = {changing, tiles_i, tiles_j, tiles_k};
    const int i = (first_i + (int)(blockIdx.z % outer)) * cell_i - origin_i, j = blockIdx.y * DEEP, k = (int)place;
    if (!__syncthreads_or(place < inner && tiles.near(sample, i - reach_i, i + cell_i - 1 + reach_i, j, j + DEEP - 1, k, k))) return;
    in += blockIdx.z * inner * m;
    out += blockIdx.z * inner * n;
    smooth_columns<float, float>(
        weights + sample * n * m, band + sample * 2 * n, n, m, inner, [=](int column, long long at) { return from_share(in[column * inner + at]); },
        [=](int row, long long at, float sum) { out[row * inner + at] = to_share(sum); });
}

// Smooth it along i and bring it to texture, clip(gain · grain, 0, 1), in tiles that change.
// Bytes: 2 / cell read, 2 written a voxel; operations as above.
extern "C" __global__ void __launch_bounds__(ACROSS)
texture_kernel(unsigned short* out, const unsigned short* in, const float* weights, const int* band, const float* gain, const unsigned char* changing, int n, int m,
               long long inner, int n_k, int tiles_i, int tiles_j, int tiles_k) {
    const long long sample = blockIdx.z, place = blockIdx.x * (long long)ACROSS + threadIdx.x;
    const Tiles tiles = {changing, tiles_i, tiles_j, tiles_k};
    const int i = blockIdx.y * DEEP, j = (int)(place / n_k), k = (int)(place % n_k);
    if (!__syncthreads_or(place < inner && tiles.near(sample, i, i + DEEP - 1, j, j, k, k))) return;
    const float factor = gain[sample];
    in += sample * inner * m;
    out += sample * inner * n;
    smooth_columns<float, float>(
        weights + sample * n * m, band + sample * 2 * n, n, m, inner, [=](int column, long long at) { return from_share(in[column * inner + at]); },
        [=](int row, long long at, float sum) { out[row * inner + at] = to_share(factor * sum); });
}
