// Soft edges: the mask of all lesions, smoothed; a share of one in 16 bits a voxel. Zero where no lesion is near, at the price of a store.
#include "smoothing.cuh"
#include "tiles.cuh"

// Smooth the mask along k, and clear `changing` for the last pass. Bytes: 2 read, 2 written a voxel; operations: 8σ + 1 products near a lesion.
extern "C" __global__ void __launch_bounds__(256, 2)
edge_lines_kernel(unsigned short* out, unsigned char* changing, const short* instances, const float* weights, const int* band, const unsigned char* touched, int n, long long lines, int n_j,
                  int reach_k, int tiles_i, int tiles_j, int tiles_k) {
    const long long sample = blockIdx.z, line = blockIdx.y * (long long)TILE + threadIdx.x;
    const Tiles tiles = {touched, tiles_i, tiles_j, tiles_k};
    const int i = (int)(line / n_j), j = (int)(line % n_j), k = blockIdx.x * TILE;
    const bool needed = threadIdx.y == 0 && line < lines && tiles.near(sample, i, i, j, j, k - reach_k, k + TILE - 1 + reach_k);
    const long long block = blockIdx.y * (long long)gridDim.x + blockIdx.x, threads = (long long)gridDim.x * gridDim.y * blockDim.x * blockDim.y;
    const long long all = (long long)tiles_i * tiles_j * tiles_k;
    for (long long tile = (block * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x; tile < all; tile += threads) changing[sample * all + tile] = 0;
    instances += sample * lines * n;
    out += sample * lines * n;
    if (__syncthreads_or(needed)) {
        smooth_lines<float, float>(
            weights + sample * n * n, band + sample * 2 * n, n, n, lines, [=](long long at, int column) { return instances[at * n + column] > 0 ? 1.0f : 0.0f; },
            [=](long long at, int row, float sum) { out[at * n + row] = to_share(sum); });
        return;
    }
    for (int step = threadIdx.y; step < TILE; step += blockDim.y)
        if (blockIdx.y * (long long)TILE + step < lines && k + (int)threadIdx.x < n) out[(blockIdx.y * (long long)TILE + step) * n + k + threadIdx.x] = 0;
}

// Smooth along j (outer: planes along i) or i (outer 1, where `changing` marks the tiles in which anything is left of a lesion).
// Bytes: 2 read, 2 written a voxel; operations as above.
extern "C" __global__ void __launch_bounds__(ACROSS, 5)
edge_columns_kernel(unsigned short* out, unsigned char* changing, const unsigned short* in, const float* weights, const int* band, const unsigned char* touched, int n,
                    long long inner, int outer, int n_k, int reach_i, int reach_j, int reach_k, int tiles_i, int tiles_j, int tiles_k) {
    const long long sample = blockIdx.z / outer, place = blockIdx.x * (long long)ACROSS + threadIdx.x;
    const Tiles tiles = {touched, tiles_i, tiles_j, tiles_k};
    const bool last = changing != nullptr;
    const int first = blockIdx.y * DEEP, k = (int)(place % n_k);
    const int i = last ? first : (int)(blockIdx.z % outer), j = last ? (int)(place / n_k) : first;
    const int end_i = last ? first + DEEP - 1 : i, end_j = last ? j : first + DEEP - 1;
    const bool needed = place < inner && tiles.near(sample, i - reach_i, end_i + reach_i, j - reach_j, end_j + reach_j, k - reach_k, k + reach_k);
    in += blockIdx.z * inner * n;
    out += blockIdx.z * inner * n;
    if (__syncthreads_or(needed)) {
        bool left = false;
        smooth_columns<float, float>(
            weights + sample * n * n, band + sample * 2 * n, n, n, inner, [=](int column, long long at) { return from_share(in[column * inner + at]); },
            [&](int row, long long at, float sum) {
                const unsigned short share = to_share(sum);
                out[row * inner + at] = share;
                left |= share != 0;
            });
        volatile unsigned char* const marks = changing;  // threads and blocks may mark one tile: relaxed stores to PTX, which may meet
        if (last && left) marks[((sample * tiles_i + first / TILE_I) * tiles_j + j / TILE_J) * tiles_k + k / TILE_K] = 1;
        return;
    }
    if (place < inner)
        for (int row = first; row < min(first + DEEP, n); ++row) out[row * inner + place] = 0;
}
