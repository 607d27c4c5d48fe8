// Tiles of 8 × 8 × 32 voxels, and which of them are marked: what no marked tile is near needs no work.
#pragma once

constexpr int TILE_I = 8, TILE_J = 8, TILE_K = 32;

struct Tiles {
    const unsigned char* marked;  // (samples, i, j, k) of tiles
    int i, j, k;

    // Whether a voxel from `low` to `high`, both inclusive, lies in a marked tile; they may reach beyond the array.
    __device__ bool near(long long sample, int low_i, int high_i, int low_j, int high_j, int low_k, int high_k) const {
        for (int a = max(low_i, 0) / TILE_I; a <= min(high_i / TILE_I, i - 1); ++a)
            for (int b = max(low_j, 0) / TILE_J; b <= min(high_j / TILE_J, j - 1); ++b)
                for (int c = max(low_k, 0) / TILE_K; c <= min(high_k / TILE_K, k - 1); ++c)
                    if (marked[((sample * i + a) * j + b) * k + c]) return true;
        return false;
    }
};
