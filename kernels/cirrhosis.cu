// Cirrhosis: an organ's nodules, and the surface that they make uneven.
#include "rng.cuh"
#include "surface.cuh"

constexpr int THREADS = TILE_J * TILE_K;
constexpr int FIELDS = 12, WAVES = 8;
constexpr int PLACES = TILE_I + TILE_J + TILE_K;
constexpr double LONGEST_MM = 25.0, SHORTEST_MM = 11.5;
constexpr float HALF_LEAD = 1.0f, LEAST_CONTRAST = 0.45f, CONTRAST_STEP = 0.1f, MEAN = 0.2051f, SD = 0.2338f;
constexpr int FAR_MASK = REACH + 1, FAR_IMAGE = FAR_MASK + 4, FAR_NODULES = FAR_MASK + 7;  // voxels between what is read and whom it serves
enum { IS_ORGAN = 1, IS_REST = 2, IS_OTHER = 4 };

// The tile of a block, for blocks (k tiles, i tiles · j tiles, samples).
struct Block {
    Extent grid;
    Tiles tiles;
    long long sample;
    int i, j, k;

    __device__ Block(const unsigned char* marks, int n_i, int n_j, int n_k)
        : grid{n_i, n_j, n_k}, tiles{marks, (n_i + TILE_I - 1) / TILE_I, (n_j + TILE_J - 1) / TILE_J, (n_k + TILE_K - 1) / TILE_K}, sample(blockIdx.z),
          i((int)blockIdx.y / tiles.j * TILE_I), j((int)blockIdx.y % tiles.j * TILE_J), k((int)blockIdx.x * TILE_K) {}

    // What lies within so many voxels of the tile.
    __device__ int around(int far) const { return tiles.marks(sample, i - far, i + TILE_I - 1 + far, j - far, j + TILE_J - 1 + far, k - far, k + TILE_K - 1 + far); }
};

__device__ __forceinline__ bool asked(float strength, float nodule_hu) { return isfinite(strength) && strength > 0.0f && isfinite(nodule_hu); }

// Wave vectors in turns per mm and phases in turns: a sample a block, a wave a thread. Some 100 operations in double each.
extern "C" __global__ void __launch_bounds__(FIELDS * WAVES)
waves_kernel(double* waves, const long long* uids, unsigned long long seed) {
    const int wave = threadIdx.x;
    const Words words = philox(seed, uids[blockIdx.x], NODULE, wave / WAVES, wave % WAVES);
    const double per_mm = 1.0 / LONGEST_MM + (1.0 / SHORTEST_MM - 1.0 / LONGEST_MM) * (double)to_uniform(words.word[2]);
    const double cosine = 2.0 * (double)to_uniform(words.word[0]) - 1.0, across = sqrt(1.0 - cosine * cosine) * per_mm;
    double sine_around, cosine_around;
    sincospi(2.0 * (double)to_uniform(words.word[1]), &sine_around, &cosine_around);
    double* out = waves + 4 * ((long long)blockIdx.x * (FIELDS * WAVES) + wave);
    out[0] = across * cosine_around, out[1] = across * sine_around, out[2] = cosine * per_mm, out[3] = (double)to_uniform(words.word[3]);
}

// What a tile holds, a tile a block: organ, anything else, other labels. Bytes: the label read, once.
extern "C" __global__ void __launch_bounds__(THREADS)
mark_kernel(unsigned char* marks, const void* label, int label_kind, long long organ, int n_i, int n_j, int n_k) {
    const Block block(marks, n_i, n_j, n_k);
    const int j = block.j + threadIdx.x / TILE_K, k = block.k + threadIdx.x % TILE_K;
    int mine = 0;
    if (j < n_j && k < n_k)
        for (int i = block.i; i < min(block.i + TILE_I, n_i); ++i) {
            const long long number = read_label(label, block.grid.at(block.sample, i, j, k), label_kind);
            mine |= number == organ ? IS_ORGAN : number == 0 ? IS_REST : IS_REST | IS_OTHER;
        }
    const int any_organ = __syncthreads_or(mine & IS_ORGAN), any_rest = __syncthreads_or(mine & IS_REST), any_other = __syncthreads_or(mine & IS_OTHER);
    if (threadIdx.x > 0) return;
    marks[((block.sample * block.tiles.i + block.i / TILE_I) * block.tiles.j + block.j / TILE_J) * block.tiles.k + block.k / TILE_K] =
        (unsigned char)((any_organ ? IS_ORGAN : 0) | (any_rest ? IS_REST : 0) | (any_other ? IS_OTHER : 0));
}

// Profile of nodules, a tile a block; none where no organ is near. A thread walks eight voxels along i. For each field, waves along the
// tile's axes are tabled in shared memory; angles are reduced in double, so that they are as good far from the origin.
// Bytes: 4 written a voxel; operations: 384 of waves and 60 comparisons and choices a voxel, and 18 sines and cosines a thread.
extern "C" __global__ void __launch_bounds__(THREADS)
nodules_kernel(float* profile, const double* waves, const unsigned char* marks, const float* strength, const float* nodule_hu, int n_i, int n_j, int n_k,
               int origin_i, int origin_j, int origin_k, double mm_i, double mm_j, double mm_k) {
    __shared__ float2 table[WAVES][PLACES];
    const Block block(marks, n_i, n_j, n_k);
    if (!asked(strength[block.sample], nodule_hu[block.sample]) || !(block.around(FAR_NODULES) & IS_ORGAN)) return;
    const int own_j = threadIdx.x / TILE_K, own_k = threadIdx.x % TILE_K;
    float first[TILE_I], second[TILE_I];
    unsigned winner = 0;  // four bits for each of the eight voxels: which field is the largest
#pragma unroll
    for (int deep = 0; deep < TILE_I; ++deep) first[deep] = second[deep] = -1e30f;
    for (int field = 0; field < FIELDS; ++field) {
        const double* of_field = waves + 4 * WAVES * (block.sample * FIELDS + field);
        __syncthreads();
        for (int item = threadIdx.x; item < WAVES * PLACES; item += THREADS) {
            const int wave = item / PLACES, place = item % PLACES, axis = place < TILE_I ? 0 : place < TILE_I + TILE_J ? 1 : 2;
            const int at = axis == 0 ? origin_i + block.i + place : axis == 1 ? origin_j + block.j + place - TILE_I : origin_k + block.k + place - TILE_I - TILE_J;
            const double mm = axis == 0 ? mm_i : axis == 1 ? mm_j : mm_k;
            const double turns = (double)at * mm * of_field[4 * wave + axis] + (axis == 0 ? of_field[4 * wave + 3] : 0.0);
            sincospif(2.0f * (float)(turns - floor(turns)), &table[wave][place].y, &table[wave][place].x);
        }
        __syncthreads();
        float value[TILE_I] = {};
        for (int wave = 0; wave < WAVES; ++wave) {
            const float2 on_j = table[wave][TILE_I + own_j], on_k = table[wave][TILE_I + TILE_J + own_k];
            const float c = on_j.x * on_k.x - on_j.y * on_k.y, s = on_j.y * on_k.x + on_j.x * on_k.y;
#pragma unroll
            for (int deep = 0; deep < TILE_I; ++deep) value[deep] += table[wave][deep].x * c - table[wave][deep].y * s;
        }
#pragma unroll
        for (int deep = 0; deep < TILE_I; ++deep) {
            second[deep] = fmaxf(second[deep], fminf(first[deep], value[deep]));
            if (value[deep] > first[deep]) winner = (winner & ~(15u << 4 * deep)) | (unsigned)field << 4 * deep;
            first[deep] = fmaxf(first[deep], value[deep]);
        }
    }
    const int j = block.j + own_j, k = block.k + own_k;
    if (j >= n_j || k >= n_k) return;
#pragma unroll
    for (int deep = 0; deep < TILE_I; ++deep) {
        const float lead = first[deep] - second[deep], square = lead * lead * (2.0f / WAVES);
        const float contrast = LEAST_CONTRAST + CONTRAST_STEP * (float)(winner >> 4 * deep & 15u);
        if (block.i + deep < n_i) profile[block.grid.at(block.sample, block.i + deep, j, k)] = (contrast * square / (square + HALF_LEAD * HALF_LEAD) - MEAN) / SD;
    }
}

// The image's smooth part, a tile a block; none where no surface is near.
extern "C" __global__ void __launch_bounds__(THREADS)
smooth_kernel(float* smooth, const void* image, const unsigned char* marks, const float* strength, const float* nodule_hu, int kind, int n_i, int n_j, int n_k) {
    const Block block(marks, n_i, n_j, n_k);
    const int around = block.around(FAR_IMAGE);
    if (!asked(strength[block.sample], nodule_hu[block.sample]) || !(around & IS_ORGAN) || !(around & IS_REST)) return;
    smooth_tile(smooth, image, kind, block.grid, block.sample, block.i, block.j, block.k);
}

// Surface, then nodules in what is then organ: a tile a block, a thread walks its eight voxels along i. `out` and `out_label` hold image and
// label before; what does not change is not written. Bytes: label and profile read, image read and written where it changes, a voxel; near
// a surface 22 labels and 17 floats from cache besides. Operations: 3; near a surface 500, and twice that beside other labels.
extern "C" __global__ void __launch_bounds__(THREADS, 3)
cirrhosis_kernel(void* out, void* out_label, const float* smooth, const float* profile, const unsigned char* marks, const void* label, const float* strength,
                 const float* nodule_hu, int kind, int label_kind, long long organ, int n_i, int n_j, int n_k, unsigned long long weights_i,
                 unsigned long long weights_j, unsigned long long weights_k, float slope_i, float sigma_i, float mm_i, float slope_j, float sigma_j, float mm_j,
                 float slope_k, float sigma_k, float mm_k) {
    __shared__ Masks masks;
    __shared__ float free_share[TILE_I][THREADS];
    const Block block(marks, n_i, n_j, n_k);
    const Extent& grid = block.grid;
    const long long sample = block.sample;
    const int around = block.around(FAR_MASK), own_j = threadIdx.x / TILE_K, own_k = threadIdx.x % TILE_K, j = block.j + own_j, k = block.k + own_k;
    if (!asked(strength[sample], nodule_hu[sample]) || !(around & IS_ORGAN)) return;
    const bool surface = around & IS_REST, others = around & IS_OTHER;
    const Axis on_i = {weights_i, slope_i, sigma_i, mm_i}, on_j = {weights_j, slope_j, sigma_j, mm_j}, on_k = {weights_k, slope_k, sigma_k, mm_k};
    const auto is_organ = [=](long long at) { return read_label(label, at, label_kind) == organ; };
    const auto is_other = [=](long long at) { const long long number = read_label(label, at, label_kind); return number != organ && number != 0; };
    if (others) {
        smooth_mask(masks, grid, sample, block.i, block.j, block.k, on_i, on_j, on_k, is_other);
        for (int deep = 0; deep < TILE_I; ++deep)
            free_share[deep][threadIdx.x] = fmaxf(1.0f - (float)masks.smooth[deep + 1][own_j + 1][own_k + 1] * (HOLD * UNIT), 0.0f);
    }
    if (surface) smooth_mask(masks, grid, sample, block.i, block.j, block.k, on_i, on_j, on_k, is_organ);
    if (j >= n_j || k >= n_k) return;
#pragma unroll 1
    for (int deep = 0; deep < min(TILE_I, n_i - block.i); ++deep) {
        const int i = block.i + deep;
        const long long at = grid.at(sample, i, j, k);
        const float free = others ? free_share[deep][threadIdx.x] : 1.0f;
        const auto sampled = [&](const float* by, auto value) {
            return interpolated(grid, sample, along(i, by[0], n_i), along(j, by[1], n_j), along(k, by[2], n_k), value);
        };
        const auto wanted = [&](float by_i, float by_j, float by_k) {
            const float by[3] = {by_i, by_j, by_k};
            return sampled(by, [=](long long from) { return profile[from]; });
        };
        bool inside = is_organ(at);
        float change = 0.0f, moved[3];
        if (surface && displacement(masks, grid, i, j, k, deep + 1, own_j + 1, own_k + 1, on_i, on_j, on_k, strength[sample], free, wanted, moved) &&
            !(others && (is_other(at) || sampled(moved, [=](long long from) { return is_other(from) ? 1.0f : 0.0f; }) > 0.0f))) {
            const float difference = sampled(moved, [=](long long from) { return smooth[from]; }) - smooth[at];
            if (isfinite(difference)) change = difference;
            const bool then = sampled(moved, [=](long long from) { return is_organ(from) ? 1.0f : 0.0f; }) >= 0.5f;
            if (then != inside) write_label(out_label, at, label_kind, then ? organ : 0);
            inside = then;
        }
        if (inside) change += profile[at] * nodule_hu[sample];
        if (change != 0.0f) add_to(out, at, kind, change);
    }
}
