// Tiles of 8 × 8 × 32 voxels, and which of them are marked: what no marked tile is near needs no work.
#pragma once

constexpr int TILE_I = 8, TILE_J = 8, TILE_K = 32;

struct Tiles {
    const unsigned char* marked;  // (samples, i, j, k) of tiles
    int i, j, k;

    // Marks of all tiles that hold a voxel from `low` to `high`, both inclusive, as bits; they may reach beyond the array.
    __device__ int marks(long long sample, int low_i, int high_i, int low_j, int high_j, int low_k, int high_k) const {
        int found = 0;
        for (int a = max(low_i, 0) / TILE_I; a <= min(high_i / TILE_I, i - 1); ++a)
            for (int b = max(low_j, 0) / TILE_J; b <= min(high_j / TILE_J, j - 1); ++b)
                for (int c = max(low_k, 0) / TILE_K; c <= min(high_k / TILE_K, k - 1); ++c) found |= marked[((sample * i + a) * j + b) * k + c];
        return found;
    }

    // Whether any of those tiles is marked.
    __device__ bool near(long long sample, int low_i, int high_i, int low_j, int high_j, int low_k, int high_k) const {
        return marks(sample, low_i, high_i, low_j, high_j, low_k, high_k) != 0;
    }
};
