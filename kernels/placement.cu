// Where lesions go: count what erosion leaves of each axial slice, then pick a slice and a pixel of it by rank. Integers throughout.
//
// The volume is seen as rows × columns × axial, with a stride each, whichever axis is the axial one. What lies outside counts as organ.
#include "labels.cuh"
#include "rng.cuh"

constexpr int THREADS = 128;
constexpr int WEIGHT_ONE = 65536;  // weight of a slice that is wholly in the extent

struct Volume {
    const void* label;
    long long row_stride, column_stride, axial_stride, organ;
    int kind, rows, columns, row_margin, column_margin;

    __device__ bool is_organ(long long row, long long column, long long axial) const {
        return read_label(label, row * row_stride + column * column_stride + axial * axial_stride, kind) == organ;
    }
    // Whether a column of the eroding square is all organ.
    __device__ bool column_set(int row, int column, int axial) const {
        bool set = true;
        for (int r = max(row - row_margin, 0); r <= min(row + row_margin, rows - 1); ++r) set = set & is_organ(r, column, axial);
        return set;
    }
    __device__ bool eroded(int row, int column, int axial) const {
        bool set = true;
        for (int c = max(column - column_margin, 0); set && c <= min(column + column_margin, columns - 1); ++c) set = column_set(row, c, axial);
        return set;
    }
};

// One row of one slice a thread, all its columns in turn, with the length of the run of set columns: an eroded pixel ends a run of 2 · margin + 1.
// `counts` holds, a sample: voxels left in each slice, then whether a slice has organ, then whether the sample has a tumour. Zero before.
// Bytes: 1 read a voxel (its neighbours' rows come from cache), 4 written a row; operations: 2 · margin + 1 comparisons a voxel.
extern "C" __global__ void __launch_bounds__(THREADS)
count_kernel(int* per_row, int* counts, const void* label, int kind, long long organ, long long tumor, int rows, int columns, int axials, long long row_stride,
             long long column_stride, long long axial_stride, int row_margin, int column_margin) {
    const long long place = blockIdx.x * (long long)THREADS + threadIdx.x, sample = blockIdx.y;
    if (place >= (long long)rows * axials) return;
    const int row = (int)(place / axials), axial = (int)(place % axials);
    const long long voxels = (long long)rows * columns * axials;
    const void* mine = (const char*)label + ((sample * voxels) << (kind & 3));
    const Volume volume = {mine, row_stride, column_stride, axial_stride, organ, kind, rows, columns, row_margin, column_margin};
    int run = column_margin, left = 0;
    bool has_organ = false, has_tumor = false;
    for (int column = 0; column < columns + column_margin; ++column) {
        bool set = true;
        if (column < columns) {
            const long long value = read_label(mine, row * row_stride + column * column_stride + axial * axial_stride, kind);
            has_organ |= value == organ;
            has_tumor |= value == tumor;
            set = volume.column_set(row, column, axial);
        }
        run = set ? run + 1 : 0;
        left += column >= column_margin && run > 2 * column_margin;
    }
    int* count = counts + sample * (2 * axials + 1);
    per_row[(sample * rows + row) * axials + axial] = left;
    if (left) atomicAdd(&count[axial], left);
    if (has_organ) atomicOr(&count[axials + axial], 1);
    if (has_tumor) atomicOr(&count[2 * axials], 1);
}

// Shared memory of a search for a bin, one search after another.
struct Search {
    long long ends[THREADS], rank;
    int found;
};

// Index of the bin that holds `value`, of n bins of `size(index)`; `value` becomes its rank within. Bins are scanned a block at a time.
template <class Size>
__device__ int find_bin(Search& search, int n, long long& value, Size size) {
    const int thread = threadIdx.x;
    long long before = 0;
    if (thread == 0) search.found = n - 1, search.rank = 0;
    for (int first = 0; first < n; first += THREADS) {
        const long long mine = first + thread < n ? size(first + thread) : 0;
        search.ends[thread] = mine;
        __syncthreads();
        for (int step = 1; step < THREADS; step *= 2) {
            const long long add = thread >= step ? search.ends[thread - step] : 0;
            __syncthreads();
            search.ends[thread] += add;
            __syncthreads();
        }
        const long long end = before + search.ends[thread];
        if (value < end && value >= end - mine) search.found = first + thread, search.rank = value - (end - mine);
        before += search.ends[THREADS - 1];
        __syncthreads();
        if (value < before) break;
    }
    const int bin = search.found;
    value = search.rank;
    __syncthreads();
    return bin;
}

// One lesion slot of one sample a block: blocks (slots, samples). Bytes and operations: a slice's rows and a row's square of neighbours.
extern "C" __global__ void __launch_bounds__(THREADS)
pick_kernel(long long* centre_vox, bool* possible, const int* per_row, const int* counts, const void* label, const long long* uid, float extent_low, float extent_high,
            unsigned long long seed, int kind, long long organ, int rows, int columns, int axials, long long row_stride, long long column_stride,
            long long axial_stride, int row_margin, int column_margin, int row_axis, int column_axis, int axial_axis) {
    __shared__ int ends[2];
    __shared__ long long sums[THREADS];
    __shared__ Search search;
    const int slot = blockIdx.x, slots = gridDim.x, thread = threadIdx.x;
    const long long sample = blockIdx.y, voxels = (long long)rows * columns * axials;
    const int* count = counts + sample * (2 * axials + 1);
    if (thread == 0) ends[0] = axials, ends[1] = -1;
    __syncthreads();
    for (int axial = thread; axial < axials; axial += THREADS)
        if (count[axials + axial]) atomicMin(&ends[0], axial), atomicMax(&ends[1], axial);
    __syncthreads();

    const float first = (float)ends[0], height = (float)ends[1] - first;
    const float low = first + extent_low * height, high = fmaxf(first + extent_high * height, low + 1e-3f);
    const auto weight = [&](int axial) -> long long {
        if (count[axial] == 0) return 0;
        const float k = (float)axial, overlap = fmaxf(fminf(k + 0.5f, high) - fmaxf(k - 0.5f, low), 0.0f);
        return height > 0.0f ? (long long)rintf(overlap * WEIGHT_ONE) : WEIGHT_ONE;
    };
    long long mine = 0;
    for (int axial = thread; axial < axials; axial += THREADS) mine += weight(axial);
    sums[thread] = mine;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) sums[thread] += sums[thread + half];
        __syncthreads();
    }
    const long long total = sums[0];
    const Words words = philox(seed, uid[sample], PLACEMENT, slot, 0);
    long long value = to_integer(words.word[0], 0, total - 1);
    const int axial = find_bin(search, axials, value, weight);
    value = to_integer(words.word[1], 0, (long long)count[axial] - 1);
    const int row = find_bin(search, rows, value, [&](int r) -> long long { return per_row[(sample * rows + r) * axials + axial]; });
    const void* whole = (const char*)label + ((sample * voxels) << (kind & 3));
    const Volume volume = {whole, row_stride, column_stride, axial_stride, organ, kind, rows, columns, row_margin, column_margin};
    const int column = find_bin(search, columns, value, [&](int c) -> long long { return volume.eroded(row, c, axial); });
    if (thread > 0) return;
    long long* centre = centre_vox + 3 * (sample * slots + slot);
    centre[row_axis] = row;
    centre[column_axis] = column;
    centre[axial_axis] = axial;
    if (slot == 0) possible[sample] = total > 0 && !count[2 * axials];
}
