// Gaussian smoothing: weights of every axis, then one product an axis.
#include "smoothing.cuh"

constexpr int THREADS = 128;
constexpr int TABLE = 4096;  // distances, in half voxels, that a block can tabulate

// exp(−x) by additions and multiplications alone, each rounded: the same bits on every device. Right to 1e-13 for x ≤ 32.
__device__ double exp_of_minus(double x) {
    const double s = -0.015625 * x;
    double sum = 1.0;
    for (int k = 12; k > 0; --k) sum = __dadd_rn(1.0, __ddiv_rn(__dmul_rn(s, sum), (double)k));
    for (int squared = 0; squared < 6; ++squared) sum = __dmul_rn(sum, sum);
    return sum;
}

// Columns of the table of axes.
enum { FIRST_ROW, ROWS, FIRST_COLUMN, COLUMNS, WHOLE_VOX, REACH, ROW_CELL, COLUMN_CELL, INTEGER, WEIGHTS_AT, SQUARES_AT, BAND_AT, FIELDS };

// Standard deviations of a smoothing: `each` of them a sample, one or one an axis.
struct Widths {
    const float* sigma_mm;
    int each;
    __device__ float operator()(int sample, int axis) const { return sigma_mm[sample * each + min(axis, each - 1)]; }
};

// Weights of one row of one axis' matrix a block: blocks (rows, samples, axes), three axes of one smoothing, then three of another where
// there is one. An axis' matrices stand at WEIGHTS_AT of `shares`, or of `integers`, where they add up to 2¹⁵, each rounded; sample by
// sample. So do its sums of squares at SQUARES_AT of `shares` and its bands at BAND_AT of `integers`.
// Bytes: 4 written a weight; operations: some 60 in double a table entry, 4 table look-ups a weight.
extern "C" __global__ void __launch_bounds__(THREADS)
weights_kernel(float* shares, int* integers, const float* sigma_mm, const float* other_mm, int each, int other_each, float mm_i, float mm_j, float mm_k,
               const int* axes) {
    __shared__ int table[TABLE];
    __shared__ long long sums[THREADS];
    __shared__ float square[THREADS];
    __shared__ int ends[2];
    const int* axis = axes + FIELDS * blockIdx.z;
    const int n = axis[ROWS], m = axis[COLUMNS], whole = axis[WHOLE_VOX], reach = axis[REACH], cell = axis[COLUMN_CELL];
    const int row = blockIdx.x, sample = blockIdx.y, thread = threadIdx.x, along = blockIdx.z % 3;
    if (row >= n) return;
    const Widths widths = blockIdx.z < 3 ? Widths{sigma_mm, each} : Widths{other_mm, other_each};
    const float sigma = fmaxf(widths(sample, along) / (along == 0 ? mm_i : along == 1 ? mm_j : mm_k), 1e-3f);
    const float cut = 2.0f * floorf(4.0f * sigma + 0.5f);
    for (int half = thread; half <= reach; half += THREADS) {
        const double ratio = __ddiv_rn((double)half, (double)sigma), x = __dmul_rn(0.125, __dmul_rn(ratio, ratio));
        table[half] = (float)half <= cut && half < reach ? (int)__double2ll_rn(1073741824.0 * exp_of_minus(fmin(x, 32.0))) : 0;
    }
    if (thread == 0) ends[0] = m, ends[1] = 0;
    __syncthreads();

    const int x = 2 * min(max((axis[FIRST_ROW] + row) * axis[ROW_CELL], 0), whole - 1) + axis[ROW_CELL] - 1;
    const int period = 4 * whole, turns = (reach + period - 1) / period;
    const auto weigh = [&](int column) {
        const int place = (axis[FIRST_COLUMN] + column) * cell, inside = min(max(whole - place, 0), place >= 0 ? cell : 0), c = 2 * place + cell - 1;
        long long sum = 0;
        for (int turn = -turns; turn <= turns; ++turn)
            sum += (long long)table[min(abs(x - (c + turn * period)), reach)] + table[min(abs(x - (turn * period - 2 - c)), reach)];
        return sum * inside;
    };
    long long mine = 0;
    for (int column = thread; column < m; column += THREADS) mine += weigh(column);
    sums[thread] = mine;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) sums[thread] += sums[thread + half];
        __syncthreads();
    }
    const long long total = max(sums[0], 1ll), at = axis[WEIGHTS_AT] + ((long long)sample * n + row) * m;
    float squared = 0.0f;
    for (int column = thread; column < m; column += THREADS) {
        const long long sum = weigh(column);
        const float weight = (float)sum / (float)total;
        if (axis[INTEGER]) integers[at + column] = (int)((32768 * sum + total / 2) / total);
        else shares[at + column] = weight;
        squared += weight * weight;
        if (sum > 0) atomicMin(&ends[0], column), atomicMax(&ends[1], column + 1);
    }
    square[thread] = squared;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) square[thread] += square[thread + half];
        __syncthreads();
    }
    if (thread > 0) return;
    const long long line = (long long)sample * n + row;
    integers[axis[BAND_AT] + 2 * line] = ends[0];
    integers[axis[BAND_AT] + 2 * line + 1] = ends[1];
    shares[axis[SQUARES_AT] + line] = square[0] / (float)cell;
}

// Smooth the last axis of (samples · lines, m). Bytes: 4 read, 4 written a value; operations: as many products as a row has weights.
extern "C" __global__ void __launch_bounds__(256, 2)
lines_kernel(float* out, const float* in, const float* weights, const int* band, int n, int m, long long lines) {
    const long long sample = blockIdx.z;
    in += sample * lines * m;
    out += sample * lines * n;
    smooth_lines<float, float>(
        weights + sample * n * m, band + sample * 2 * n, n, m, lines, [=](long long line, int column) { return in[line * m + column]; },
        [=](long long line, int row, float sum) { out[line * n + row] = sum; });
}

// Smooth the middle axis of (samples · outer, m, inner). Bytes and operations as above.
extern "C" __global__ void __launch_bounds__(ACROSS)
columns_kernel(float* out, const float* in, const float* weights, const int* band, int n, int m, long long inner, int outer) {
    const long long sample = blockIdx.z / outer;
    in += blockIdx.z * inner * m;
    out += blockIdx.z * inner * n;
    smooth_columns<float, float>(
        weights + sample * n * m, band + sample * 2 * n, n, m, inner, [=](int column, long long place) { return in[column * inner + place]; },
        [=](int row, long long place, float sum) { out[row * inner + place] = sum; });
}
