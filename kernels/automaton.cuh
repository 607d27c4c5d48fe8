// Cells in which lesions grow: the numbers of the law, where a tile of cells lies, what is near it, and the random fields.
#pragma once

#include "rng.cuh"
#include "tiles.cuh"

constexpr int MATURITY = 5, UNITS = 16, BINS = MATURITY * UNITS, NEVER = 2147483647;  // as in _automaton.py
constexpr double BARREN_LOW = 0.4, BARREN_SPAN = 1.2, EXPONENTIAL_STEPS = 4096.0;
constexpr int NODE_BITS = 10;
constexpr float GAP_CELLS = 1.5f, MOST_RADIUS_MM = 1e4f;  // as in _seedbed.py, like the next three lines
constexpr double BALL = 1.6, MOST_VOXELS = 2e9, MOST_HU = 2000.0, SECOND_HU = 10.0, THIRD_HU = 20.0, SECOND_NOISES = 1.0, THIRD_NOISES = 2.0;
constexpr float HU_FIRST = -1024.0f, HU_LAST = 3071.0f;
constexpr int AROUND = 27, FIELD_MOST = 1000, LEVEL_MOST = 32000;
constexpr int FAR_CELLS = 2;       // beyond a ball, where it keeps others away
constexpr int BARRIER = 3;         // the level of what no lesion enters
constexpr short UNKNOWN = -32768;  // HU that count for nothing
enum { SEED = 0, EXTENT = 3, TARGET = 6, STARTED = 7, LAST = 8, ROW = 9 };  // of a lesion: LAST is the last window in which it grew

struct Three {
    int i, j, k;

    __device__ long long at(long long sample, int a, int b, int c) const { return ((sample * i + a) * j + b) * k + c; }
    __device__ bool holds(int a, int b, int c) const { return a >= 0 && a < i && b >= 0 && b < j && c >= 0 && c < k; }
};

struct Grid {
    Three voxels, split;

    __device__ Three cells() const { return {voxels.i * split.i, voxels.j * split.j, voxels.k * split.k}; }
    // Whether a cell is its voxel's middle one; the place of its voxel; the place of the middle cell of the voxel at a place in its sample.
    __device__ bool middle(int i, int j, int k) const { return i % split.i == split.i / 2 && j % split.j == split.j / 2 && k % split.k == split.k / 2; }
    __device__ long long voxel(long long sample, int i, int j, int k) const { return voxels.at(sample, i / split.i, j / split.j, k / split.k); }
    __device__ long long middle_of(long long sample, long long place) const {
        const long long line = place / voxels.k;
        return cells().at(sample, (int)(line / voxels.j) * split.i + split.i / 2, (int)(line % voxels.j) * split.j + split.j / 2,
                          (int)(place % voxels.k) * split.k + split.k / 2);
    }
};

// The first place of a block's tile.
__device__ __forceinline__ Three tile_of(const Three& n) {
    const int tiles_j = (n.j + TILE_J - 1) / TILE_J;
    return {(int)blockIdx.y / tiles_j * TILE_I, (int)blockIdx.y % tiles_j * TILE_J, (int)blockIdx.x * TILE_K};
}

// Whether the cells from `start` on, `size` of them, lie within `far` of a lesion's seed along each axis.
__device__ __forceinline__ bool overlaps(const int* row, const Three& start, const Three& size, const Three& far) {
    return start.i <= row[SEED] + far.i && start.i + size.i > row[SEED] - far.i && start.j <= row[SEED + 1] + far.j &&
           start.j + size.j > row[SEED + 1] - far.j && start.k <= row[SEED + 2] + far.k && start.k + size.k > row[SEED + 2] - far.k;
}

__device__ __forceinline__ bool near_ball(const int* row, const Three& start, const Three& size) {
    return row[TARGET] > 0 && overlaps(row, start, size, {row[EXTENT] + FAR_CELLS, row[EXTENT + 1] + FAR_CELLS, row[EXTENT + 2] + FAR_CELLS});
}

// Words for a place, in cells or in nodes of the whole.
__device__ __forceinline__ Words words_at(unsigned purpose, int i, int j, int k, unsigned long long seed, long long uid) {
    return philox(seed, uid, purpose, i & 0xFFFF, (unsigned)(j & 0xFFFF) << 16 | (unsigned)(k & 0xFFFF));
}

__device__ __forceinline__ int floor_of(int at, int period) { return at >= 0 ? at / period : -((period - 1 - at) / period); }

// Factor on thresholds at a cell of the whole: nodes, linear in between, to the fourth power.
__device__ double barrenness(int i, int j, int k, const Three& period, double per_node, unsigned long long seed, long long uid) {
    const int a = floor_of(i, period.i), b = floor_of(j, period.j), c = floor_of(k, period.k);
    long long sum = 0;
    for (int corner = 0; corner < 8; ++corner) {
        const int up_i = corner >> 2, up_j = corner >> 1 & 1, up_k = corner & 1;
        const int part_i = i - a * period.i, part_j = j - b * period.j, part_k = k - c * period.k;
        const int share = (up_i ? part_i : period.i - part_i) * (up_j ? part_j : period.j - part_j) * (up_k ? part_k : period.k - part_k);
        sum += (long long)share * (words_at(FERTILITY, a + up_i, b + up_j, c + up_k, seed, uid).word[0] >> (32 - NODE_BITS));
    }
    const double factor = (double)sum * per_node * BARREN_SPAN + BARREN_LOW;
    return factor * factor * (factor * factor);
}
