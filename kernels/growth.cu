// Lesions grown by a cellular automaton: lesions in cells, levels of tissue, thresholds; then a pass a window of steps; then where to stop.
//
// Tiles are blocks, of voxels or of cells: blocks (k tiles, i tiles · j tiles, samples); a thread walks a tile's eight places along i.
#include "automaton.cuh"
#include "images.cuh"
#include "labels.cuh"

constexpr int THREADS = TILE_J * TILE_K;
constexpr int WIDE_I = TILE_I + 2, WIDE_J = TILE_J + 2, WIDE_K = TILE_K + 2, WIDE = WIDE_I * WIDE_J * WIDE_K;

// One sample a block, a slot a thread at a time: lesions in cells, and the levels of HU. Operations: some 60 a lesion.
extern "C" __global__ void __launch_bounds__(64)
lesions_kernel(int* rows, float* balls, short* levels, const float* centre_vox, const float* radius_mm, const bool* active, const float* organ_hu,
               const float* noise_hu, double voxels_a_mm3, int slots, int n_i, int n_j, int n_k, int split_i, int split_j, int split_k, int origin_i,
               int origin_j, int origin_k, double reach_i, double reach_j, double reach_k) {
    const int n[3] = {n_i, n_j, n_k}, split[3] = {split_i, split_j, split_k}, origin[3] = {origin_i, origin_j, origin_k};
    const double reach_cells[3] = {reach_i, reach_j, reach_k};  // of the ball of a lesion of 1 mm
    for (int slot = threadIdx.x; slot < slots; slot += blockDim.x) {
        const long long lesion = (long long)blockIdx.x * slots + slot;
        int* row = rows + lesion * ROW;
        float* ball = balls + lesion * 4;
        bool usable = active[lesion] && radius_mm[lesion] > 0.0f && radius_mm[lesion] <= MOST_RADIUS_MM;
        for (int axis = 0; axis < 3; ++axis) usable = usable && isfinite(centre_vox[3 * lesion + axis]);
        const double radius = usable ? (double)radius_mm[lesion] : 1.0;
        bool inside = usable;
        for (int axis = 0; axis < 3; ++axis) {
            ball[axis] = ((usable ? centre_vox[3 * lesion + axis] : 0.0f) + 0.5f) * (float)split[axis] - 0.5f;
            const double at = rint((double)ball[axis]) - (double)(origin[axis] * split[axis]), last = (double)(n[axis] * split[axis] - 1);
            inside = inside && at >= 0.0 && at <= last;
            row[SEED + axis] = (int)fmin(fmax(at, 0.0), last);
            row[EXTENT + axis] = (int)(floor(radius * reach_cells[axis]) + 1.0);
        }
        const float reach = (float)(radius * BALL);
        ball[3] = reach * reach;
        row[TARGET] = inside ? (int)fmin(fmax(rint(radius * radius * radius * voxels_a_mm3), 1.0), MOST_VOXELS) : 0;
        row[STARTED] = row[LAST] = 0;
    }
    if (threadIdx.x) return;
    const double organ = isfinite(organ_hu[blockIdx.x]) ? (double)organ_hu[blockIdx.x] : 0.0;
    const double noise = isfinite(noise_hu[blockIdx.x]) ? fmin(fmax((double)noise_hu[blockIdx.x], -MOST_HU), MOST_HU) : 0.0;
    levels[3 * blockIdx.x] = (short)rint(4.0 * fmin(fmax(organ, -MOST_HU), MOST_HU));
    const double second = rint(4.0 * fmax(noise * SECOND_NOISES, SECOND_HU)), third = rint(4.0 * fmax(noise * THIRD_NOISES, THIRD_HU));
    levels[3 * blockIdx.x + 1] = (short)fmin(second * (double)AROUND, (double)LEVEL_MOST);
    levels[3 * blockIdx.x + 2] = (short)fmin(third * (double)AROUND, (double)LEVEL_MOST);
}

// Level of tissue, one tile of voxels a block; none where no ball is near. Bytes: image, label and vessel read, 1 written a voxel;
// operations: 100.
extern "C" __global__ void __launch_bounds__(THREADS)
level_kernel(unsigned char* level, const void* image, const void* label, const unsigned char* vessel, const int* rows, const short* levels, int kind,
             int label_kind, long long organ, int slots, int n_i, int n_j, int n_k, int split_i, int split_j, int split_k) {
    __shared__ short field[WIDE];
    const Three n = {n_i, n_j, n_k}, start = tile_of(n);
    const int thread = threadIdx.x;
    const long long sample = blockIdx.z;
    bool near = false;
    for (int slot = thread; slot < slots; slot += THREADS)
        near |= near_ball(rows + (sample * slots + slot) * ROW, {start.i * split_i, start.j * split_j, start.k * split_k},
                          {TILE_I * split_i, TILE_J * split_j, TILE_K * split_k});
    if (!__syncthreads_or(near)) return;
    for (int item = thread; item < WIDE; item += THREADS) {
        const int i = start.i + item / (WIDE_J * WIDE_K) - 1, j = start.j + item / WIDE_K % WIDE_J - 1, k = start.k + item % WIDE_K - 1;
        field[item] = UNKNOWN;
        if (!n.holds(i, j, k)) continue;
        const long long at = n.at(sample, i, j, k);
        const float value = read_voxel(image, at, kind);
        if (!isfinite(value) || read_label(label, at, label_kind) != organ || (vessel && vessel[at])) continue;
        const int hu = __float2int_rn(4.0f * fminf(fmaxf(value, HU_FIRST), HU_LAST)) - levels[3 * sample];
        field[item] = (short)min(max(hu, -FIELD_MOST), FIELD_MOST);
    }
    __syncthreads();
    const int j = thread / TILE_K, k = thread % TILE_K;
    if (start.j + j >= n.j || start.k + k >= n.k) return;
    int planes[3] = {};  // sums of nine, of this plane and the two before
    for (int deep = 0; deep < WIDE_I; ++deep) {
        planes[0] = planes[1], planes[1] = planes[2], planes[2] = 0;
        for (int near_by = 0; near_by < 9; ++near_by) {
            const short hu = field[(deep * WIDE_J + j + near_by / 3) * WIDE_K + k + near_by % 3];
            planes[2] += hu == UNKNOWN ? 0 : hu;
        }
        const int i = start.i + deep - 2, sum = planes[0] + planes[1] + planes[2];
        if (deep < 2 || i >= n.i) continue;
        const bool barrier = field[((deep - 1) * WIDE_J + j + 1) * WIDE_K + k + 1] == UNKNOWN;
        level[n.at(sample, i, start.j + j, start.k + k)] = barrier ? BARRIER : (sum > levels[3 * sample + 1]) + (sum > levels[3 * sample + 2]);
    }
}

// Whose ball holds a cell, and the threshold at which it is invaded; seeds are planted. One tile of cells a block. Bytes: 3 written a
// cell, and near a ball 4 more; operations there: nine Philox blocks, 1000.
extern "C" __global__ void __launch_bounds__(THREADS)
need_kernel(short* time, int* need, short* number, int* total, int* rows, const float* balls, const unsigned char* level, const long long* uids,
            unsigned long long seed, double scale_0, double scale_1, double scale_2, double per_node, int windows, int slots, int n_i, int n_j, int n_k,
            int split_i, int split_j, int split_k, int origin_i, int origin_j, int origin_k, int period_i, int period_j, int period_k, float mm_i,
            float mm_j, float mm_k) {
    const Grid grid = {{n_i, n_j, n_k}, {split_i, split_j, split_k}};
    const Three n = grid.cells(), start = tile_of(n), tile = {TILE_I, TILE_J, TILE_K};
    const int j = start.j + threadIdx.x / TILE_K, k = start.k + threadIdx.x % TILE_K;
    const int first_i = start.i + origin_i * split_i, whole_j = j + origin_j * split_j, whole_k = k + origin_k * split_k;
    const long long sample = blockIdx.z;
    int owner[TILE_I] = {};
    unsigned held = 0;  // by lower slots, or too near to them: one bit a cell
    bool any = false;
    for (int slot = 0; slot < slots; ++slot) {
        const int* row = rows + (sample * slots + slot) * ROW;
        if (!near_ball(row, start, tile)) continue;
        any = true;
        const float* ball = balls + (sample * slots + slot) * 4;
        const float y = fabsf((float)whole_j - ball[1]), z = fabsf((float)whole_k - ball[2]), reach = ball[3];
        const float y_mm = y * mm_j, z_mm = z * mm_k, near_y = fmaxf(y - GAP_CELLS, 0.0f) * mm_j, near_z = fmaxf(z - GAP_CELLS, 0.0f) * mm_k;
#pragma unroll
        for (int deep = 0; deep < TILE_I; ++deep) {
            const float x = fabsf((float)(first_i + deep) - ball[0]), x_mm = x * mm_i, near_x = fmaxf(x - GAP_CELLS, 0.0f) * mm_i;
            if (!(held >> deep & 1u) && x_mm * x_mm + y_mm * y_mm + z_mm * z_mm <= reach) owner[deep] = slot + 1;
            if (near_x * near_x + near_y * near_y + near_z * near_z <= reach) held |= 1u << deep;
        }
    }
    if (j >= n.j || k >= n.k) return;
#pragma unroll
    for (int deep = 0; deep < TILE_I; ++deep) {
        const int i = start.i + deep;
        if (i >= n.i) continue;
        const long long at = n.at(sample, i, j, k), voxel = grid.voxel(sample, i, j, k);
        if (grid.middle(i, j, k)) number[voxel] = (short)owner[deep];
        time[at] = -1;
        if (any) need[at] = NEVER;
        if (!owner[deep] || level[voxel] == BARRIER) continue;
        int* row = rows + (sample * slots + owner[deep] - 1) * ROW;
        if (i == row[SEED] && j == row[SEED + 1] && k == row[SEED + 2]) {
            time[at] = 0;
            row[STARTED] = 1;
            if (grid.middle(i, j, k)) total[(sample * slots + owner[deep] - 1) * (windows + 1) + 1] = 1;
            continue;
        }
        const double scale = level[voxel] == 0 ? scale_0 : level[voxel] == 1 ? scale_1 : scale_2;
        const Words words = words_at(GROWTH, first_i + deep, whole_j, whole_k >> 2, seed, uids[sample]);
        const unsigned word = whole_k & 2 ? (whole_k & 1 ? words.word[3] : words.word[2]) : (whole_k & 1 ? words.word[1] : words.word[0]);
        const double drawn = floor(log(((double)(word >> 8) + 0.5) * 5.9604644775390625e-8) * -EXPONENTIAL_STEPS);
        const double barren = barrenness(first_i + deep, whole_j, whole_k, {period_i, period_j, period_k}, per_node, seed, uids[sample]);
        need[at] = (int)((drawn + 0.5) * scale * barren) + 1;
    }
}

// One window of steps, one tile of cells a block; none that no growing lesion can have reached. Times are written in place, while other
// blocks read them: those of this window have no part in it, as none is mature before the next, and a time not yet written is none. They
// are volatile, relaxed loads and stores to PTX: a load sees the one or the other, and nothing else.
// Bytes: 3.3 of times and 4 of thresholds read a cell; operations: some 150, and up to six times that in a cell that is invaded.
extern "C" __global__ void __launch_bounds__(THREADS)
grow_kernel(short* time, int* total, int* rows, const int* need, const short* number, int window, int windows, int slots, int n_i, int n_j, int n_k,
            int split_i, int split_j, int split_k, int delay_1, int delay_2, int delay_3, int delay_4, int delay_5, int delay_6, int delay_7,
            int weight_1, int weight_2, int weight_3, int weight_4, int weight_5, int weight_6, int weight_7) {
    __shared__ short invaded[WIDE];  // step of invasion; 4095, which is never, where a time of −1 is
    const Grid grid = {{n_i, n_j, n_k}, {split_i, split_j, split_k}};
    const Three n = grid.cells(), start = tile_of(n);
    const int thread = threadIdx.x, step = window * MATURITY, last = step + MATURITY - 1;
    volatile short* const times = time;
    const long long sample = blockIdx.z;
    bool near = false;
    for (int slot = thread; slot < slots; slot += THREADS) {
        int *row = rows + (sample * slots + slot) * ROW, *totals = total + (sample * slots + slot) * (windows + 1) + window;
        const bool grows = row[STARTED] && totals[0] < row[TARGET];
        const Three far = {min(last / delay_4, row[EXTENT]), min(last / delay_2, row[EXTENT + 1]), min(last / delay_1, row[EXTENT + 2])};
        near |= grows && overlaps(row, start, {TILE_I, TILE_J, TILE_K}, far);
        if (blockIdx.x || blockIdx.y) continue;
        if (totals[0]) atomicAdd(&totals[1], totals[0]);
        if (grows) row[LAST] = window;
    }
    if (!__syncthreads_or(near)) return;
    for (int item = thread; item < WIDE; item += THREADS) {
        const int i = start.i + item / (WIDE_J * WIDE_K) - 1, j = start.j + item / WIDE_K % WIDE_J - 1, k = start.k + item % WIDE_K - 1;
        invaded[item] = (short)((n.holds(i, j, k) ? (unsigned short)times[n.at(sample, i, j, k)] : 0xFFFFu) >> 4);
    }
    __syncthreads();
    const int j = start.j + thread / TILE_K, k = start.k + thread % TILE_K;
    if (j >= n.j || k >= n.k) return;
    const int delay[8] = {0, delay_1, delay_2, delay_3, delay_4, delay_5, delay_6, delay_7};
    const int weight[8] = {0, weight_1, weight_2, weight_3, weight_4, weight_5, weight_6, weight_7};
    const auto exposure = [&](const short* cell, int until) {  // of a cell, up to a step: for each neighbour, its weight a step of its maturity
        int sum = 0;
#pragma unroll
        for (int item = 0; item < 27; ++item) {
            const int i = item / 9 - 1, j = item / 3 % 3 - 1, k = item % 3 - 1;
            if (item == 13) continue;
            const int kind = (i ? 4 : 0) + (j ? 2 : 0) + (k ? 1 : 0);
            sum += weight[kind] * max(until - delay[kind] - cell[(i * WIDE_J + j) * WIDE_K + k], 0);
        }
        return sum;
    };
    for (int deep = 0; deep < min(TILE_I, n.i - start.i); ++deep) {
        const int i = start.i + deep;
        const long long at = n.at(sample, i, j, k);
        const int threshold = need[at];
        const short* cell = &invaded[((deep + 1) * WIDE_J + thread / TILE_K + 1) * WIDE_K + thread % TILE_K + 1];
        if (threshold == NEVER || *cell != 4095) continue;
        int until = last + 1, before = exposure(cell, until), after = 0;
        if (before < threshold) continue;
        while (before >= threshold) after = before, before = exposure(cell, --until);
        times[at] = (short)(UNITS * until + (UNITS * (threshold - before) - 1) / (after - before));
        if (grid.middle(i, j, k)) atomicAdd(&total[(sample * slots + number[grid.voxel(sample, i, j, k)] - 1) * (windows + 1) + window + 1], 1);
    }
}

// Voxels by their time in the last window of a lesion that has its volume, or the latest time of one that has not: one voxel a thread.
// Bytes: 2 read a voxel, and 2 of a lesion's.
extern "C" __global__ void __launch_bounds__(THREADS)
count_kernel(int* bins, int* latest, const short* time, const short* number, const int* rows, const int* total, int windows, int slots, int n_i, int n_j,
             int n_k, int split_i, int split_j, int split_k) {
    const Grid grid = {{n_i, n_j, n_k}, {split_i, split_j, split_k}};
    const long long place = blockIdx.x * (long long)THREADS + threadIdx.x, sample = blockIdx.y, voxels = grid.voxels.at(1, 0, 0, 0);
    const int held = place < voxels ? number[sample * voxels + place] : 0;
    if (!held) return;
    const short at = time[grid.middle_of(sample, place)];
    if (at < 0) return;
    const long long lesion = sample * slots + held - 1;
    const int late = at - BINS * rows[lesion * ROW + LAST];
    if (total[lesion * (windows + 1) + windows] < rows[lesion * ROW + TARGET]) atomicMax(&latest[lesion], (int)at);
    else if (late >= 0 && late < BINS) atomicAdd(&bins[lesion * BINS + late], 1);
}

// When a lesion stopped: one a thread. Operations: 80 additions.
extern "C" __global__ void __launch_bounds__(64)
stop_kernel(short* stop, bool* reached, const int* bins, const int* latest, const int* rows, const int* total, int windows, int lesions) {
    const int lesion = blockIdx.x * 64 + threadIdx.x;
    if (lesion >= lesions) return;
    const int *row = rows + (long long)lesion * ROW, *totals = total + (long long)lesion * (windows + 1), target = row[TARGET];
    reached[lesion] = target > 0 && totals[windows] >= target;
    stop[lesion] = (short)latest[lesion];
    if (!reached[lesion]) return;
    int late = 0, before = totals[row[LAST]], then = before + bins[(long long)lesion * BINS];
    while (then < target && ++late < BINS) before = then, then += bins[(long long)lesion * BINS + late];
    stop[lesion] = (short)(BINS * row[LAST] + late - (target - before < then - target));
}

// Times and numbers of voxels that were invaded before their lesion stopped: one voxel a thread. Bytes: 2 read, 4 written a voxel.
extern "C" __global__ void __launch_bounds__(THREADS)
finish_kernel(short* out, short* number, const short* time, const short* stop, int slots, int n_i, int n_j, int n_k, int split_i, int split_j, int split_k) {
    const Grid grid = {{n_i, n_j, n_k}, {split_i, split_j, split_k}};
    const long long place = blockIdx.x * (long long)THREADS + threadIdx.x, sample = blockIdx.y, voxels = grid.voxels.at(1, 0, 0, 0);
    if (place >= voxels) return;
    const long long at = sample * voxels + place;
    const int held = number[at];
    const short when = held ? time[grid.middle_of(sample, place)] : -1;
    const bool grown = when >= 0 && when <= stop[sample * slots + held - 1];
    out[at] = grown ? when : -1;
    number[at] = grown ? (short)held : 0;
}
