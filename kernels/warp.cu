// Mass effect: tissue pushed away from lesions. A table of lesions that are safe together, the image's smooth part near them, the warp.
#include "labels.cuh"
#include "resample.cuh"

constexpr int THREADS = TILE_J * TILE_K;
constexpr int LISTED = 64;                        // lesions that one tile can list: slots are worked on this many at a time
constexpr float MARGIN_VOX = 2.0f;                // of a sample's upper neighbour, and of rounding
constexpr float MOST_RADIUS_MM = 1e4f;            // as in kernels/warp.py, like the next two
constexpr double REACH = 1.3, COMPRESSION = 0.6;
enum { CENTRE = 0, PER_MM = 3, PUSH = 4, REACH_MM = 5, COLUMNS = 6 };

struct Grid : Extent {
    int origin_i, origin_j, origin_k;
    float mm_i, mm_j, mm_k;
};

struct Slot {
    double centre_mm[3], reach_mm, push;
};

// What a slot asks for; a push of 0 where it is not in use or its values make no sense.
__device__ Slot asked(const float* centre_vox, float radius_mm, float strength, const bool* active, long long slot, const double* spacing_mm) {
    Slot of = {};
    bool use = active[slot] && radius_mm > 0.0f && radius_mm <= MOST_RADIUS_MM && isfinite(strength) && strength > 0.0f;
    for (int axis = 0; axis < 3; ++axis) use = use && isfinite(centre_vox[3 * slot + axis]);
    for (int axis = 0; axis < 3; ++axis) of.centre_mm[axis] = use ? (double)centre_vox[3 * slot + axis] * spacing_mm[axis] : 0.0;
    of.reach_mm = use ? (double)radius_mm * REACH : 1.0;
    of.push = use ? (double)strength / 100.0 : 0.0;
    return of;
}

// One sample a block, a slot a thread at a time: strengths cut so that no tissue is squeezed by more than COMPRESSION where lesions add up.
// Radii and strengths may be columns of a table: their values stand `radius_step` and `strength_step` apart.
// Operations: some 20 in double for each pair of slots.
extern "C" __global__ void __launch_bounds__(THREADS)
table_kernel(float* table, const float* centre_vox, const float* radius_mm, const float* strength, const bool* active, int radius_step, int strength_step,
             int slots, double mm_i, double mm_j, double mm_k) {
    const double spacing_mm[3] = {mm_i, mm_j, mm_k};
    const long long first = (long long)blockIdx.x * slots;
    const auto of_slot = [&](long long slot) {
        return asked(centre_vox, radius_mm[slot * radius_step], strength[slot * strength_step], active, slot, spacing_mm);
    };
    for (int n = threadIdx.x; n < slots; n += THREADS) {
        const Slot own = of_slot(first + n);
        double load = 0.0;
        for (int m = 0; m < slots; ++m) {
            const Slot other = of_slot(first + m);
            const double i = own.centre_mm[0] - other.centre_mm[0], j = own.centre_mm[1] - other.centre_mm[1], k = own.centre_mm[2] - other.centre_mm[2];
            const double overlap = (own.reach_mm + other.reach_mm - sqrt(i * i + j * j + k * k)) / other.reach_mm, share = fmin(fmax(overlap, 0.0), 1.0);
            load += other.push * (share * share);
        }
        float* row = table + (first + n) * COLUMNS;
        for (int axis = 0; axis < 3; ++axis) row[CENTRE + axis] = own.push > 0.0 ? centre_vox[3 * (first + n) + axis] : 0.0f;
        row[PER_MM] = (float)(1.0 / own.reach_mm);
        row[PUSH] = (float)(own.push * (COMPRESSION / fmax(load, COMPRESSION)));
        row[REACH_MM] = (float)own.reach_mm;
    }
}

// Whether a lesion can touch the `tile` voxels from `start` on, along one axis.
__device__ __forceinline__ bool touches(float centre_vox, float reach_mm, float mm, int origin, int start, int tile) {
    const float far = reach_mm / mm + MARGIN_VOX;
    return (float)(start + origin) <= centre_vox + far && (float)(start + origin + tile - 1) >= centre_vox - far;
}

__device__ bool reaches(const float* row, const Grid& grid, int start_i, int start_j, int start_k) {
    return row[PUSH] > 0.0f && touches(row[CENTRE], row[REACH_MM], grid.mm_i, grid.origin_i, start_i, TILE_I) &&
           touches(row[CENTRE + 1], row[REACH_MM], grid.mm_j, grid.origin_j, start_j, TILE_J) &&
           touches(row[CENTRE + 2], row[REACH_MM], grid.mm_k, grid.origin_k, start_k, TILE_K);
}

// One tile of one sample a block: blocks (k tiles, i tiles · j tiles, samples), its smooth part and that of nothing else; a block that
// no lesion is near does nothing.
extern "C" __global__ void __launch_bounds__(THREADS)
smooth_kernel(float* smooth, const float* table, const void* image, int kind, int slots, int n_i, int n_j, int n_k, int origin_i, int origin_j,
              int origin_k, float mm_i, float mm_j, float mm_k) {
    const Grid grid = {{n_i, n_j, n_k}, origin_i, origin_j, origin_k, mm_i, mm_j, mm_k};
    const int thread = threadIdx.x, tiles_j = (grid.n_j + TILE_J - 1) / TILE_J;
    const int start_i = blockIdx.y / tiles_j * TILE_I, start_j = blockIdx.y % tiles_j * TILE_J, start_k = blockIdx.x * TILE_K;
    const long long sample = blockIdx.z;
    bool near = false;
    for (int slot = thread; slot < slots; slot += THREADS) near |= reaches(table + (sample * slots + slot) * COLUMNS, grid, start_i, start_j, start_k);
    if (!__syncthreads_or(near)) return;
    smooth_tile(smooth, image, kind, grid, sample, start_i, start_j, start_k);
}

// Blocks as above; a thread walks the tile's eight voxels along i. `image` and `new_label` hold what was before; only what moves is written.
// Bytes, near a lesion: 8 · 4 of the smooth part from cache, image and label read and written; operations: 20 a listed lesion, and 80.
extern "C" __global__ void __launch_bounds__(THREADS, 3)
warp_kernel(void* image, void* new_label, const float* smooth, const float* table, const void* label, int kind, int label_kind, long long organ, int slots, int n_i, int n_j, int n_k, int origin_i, int origin_j, int origin_k, float mm_i, float mm_j, float mm_k) {
    const Grid grid = {{n_i, n_j, n_k}, origin_i, origin_j, origin_k, mm_i, mm_j, mm_k};
    __shared__ float rows[LISTED][COLUMNS];
    __shared__ bool listed[LISTED];
    const int thread = threadIdx.x, tiles_j = (grid.n_j + TILE_J - 1) / TILE_J;
    const int start_i = blockIdx.y / tiles_j * TILE_I, start_j = blockIdx.y % tiles_j * TILE_J, start_k = blockIdx.x * TILE_K;
    const int j = start_j + thread / TILE_K, k = start_k + thread % TILE_K;
    const long long sample = blockIdx.z;
    float moved_i[TILE_I] = {}, moved_j[TILE_I] = {}, moved_k[TILE_I] = {};
    for (int first = 0; first < slots; first += LISTED) {
        const int some = min(LISTED, slots - first);
        if (thread < some) {
            for (int column = 0; column < COLUMNS; ++column) rows[thread][column] = table[(sample * slots + first + thread) * COLUMNS + column];
            listed[thread] = reaches(rows[thread], grid, start_i, start_j, start_k);
        }
        __syncthreads();
        for (int entry = 0; entry < some; ++entry) {
            if (!listed[entry]) continue;
            const float* row = rows[entry];
            const float y = (float)(j + grid.origin_j) - row[CENTRE + 1], z = (float)(k + grid.origin_k) - row[CENTRE + 2];
            const float y_mm = y * grid.mm_j, z_mm = z * grid.mm_k;
#pragma unroll
            for (int deep = 0; deep < TILE_I; ++deep) {
                const float x = (float)(start_i + deep + grid.origin_i) - row[CENTRE], x_mm = x * grid.mm_i;
                const float left = 1.0f - sqrtf(x_mm * x_mm + y_mm * y_mm + z_mm * z_mm) * row[PER_MM];
                if (left <= 0.0f) continue;
                const float push = row[PUSH] * left * left;
                moved_i[deep] -= push * x, moved_j[deep] -= push * y, moved_k[deep] -= push * z;
            }
        }
        __syncthreads();
    }
    if (j >= grid.n_j || k >= grid.n_k) return;
#pragma unroll
    for (int deep = 0; deep < TILE_I; ++deep) {
        const int i = start_i + deep;
        if (i >= grid.n_i || (moved_i[deep] == 0.0f && moved_j[deep] == 0.0f && moved_k[deep] == 0.0f)) continue;
        const Along on_i = along(i, moved_i[deep], grid.n_i), on_j = along(j, moved_j[deep], grid.n_j), on_k = along(k, moved_k[deep], grid.n_k);
        const long long at = grid.at(sample, i, j, k);
        const float change = interpolated(grid, sample, on_i, on_j, on_k, [=](long long from) { return smooth[from]; }) - smooth[at];
        if (isfinite(change) && change != 0.0f) add_to(image, at, kind, change);
        const long long here = read_label(label, at, label_kind);
        const long long there = read_label(label, grid.at(sample, on_i.nearest, on_j.nearest, on_k.nearest), label_kind);
        if (here != there && (here == 0 || here == organ) && (there == 0 || there == organ)) write_label(new_label, at, label_kind, there);
    }
}
