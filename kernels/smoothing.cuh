// One axis of a separable smoothing, as a product with a banded matrix. What is summed and what becomes of the sum, the caller says.
//
// A matrix of n rows and m columns stands row by row, with `band`: the first column of each row that weighs, and the one after the last.
// Bands move on from row to row, so a block needs the columns from its first row's first to its last row's last.
#pragma once

constexpr int TILE = 32;     // smooth_lines: rows, lines and columns of a tile
constexpr int EACH = 4;      // lines a thread
constexpr int DEEP = 8;      // smooth_columns: rows a thread
constexpr int ACROSS = 128;  // its threads, side by side along the contiguous axes
constexpr int CHUNK = 64;    // columns whose weights are in shared memory at a time

__device__ __forceinline__ float multiply_add(float weight, float value, float sum) { return fmaf(weight, value, sum); }
__device__ __forceinline__ long long multiply_add(int weight, int value, long long sum) { return sum + (long long)weight * value; }

// Smooth along the contiguous axis: blocks of (32, 8) threads, a tile of 32 lines by 32 rows each; thread (x, y) sums row x of four lines.
// `source(line, column)` gives a value, `sink(line, row, sum)` takes a sum. A multiplication costs a quarter of a load of a weight and a
// load of a value, both from shared memory; each value is read n / 32 times from device memory.
template <class Value, class Sum, class Source, class Sink>
__device__ void smooth_lines(const Value* weights, const int* band, int n, int m, long long lines, Source source, Sink sink) {
    __shared__ Value weight[TILE][TILE + 1], value[TILE][TILE + 1];
    const int x = threadIdx.x, y = threadIdx.y, first_row = blockIdx.x * TILE;
    const long long first_line = blockIdx.y * (long long)TILE;
    const int last_row = min(first_row + TILE, n) - 1, end = band[2 * last_row + 1];
    Sum sum[EACH] = {};
    for (int column = band[2 * first_row]; column < end; column += TILE) {
#pragma unroll
        for (int step = y; step < TILE; step += TILE / EACH) {
            const bool there = column + x < end;
            const int row = first_row + step;
            const long long line = first_line + step;
            weight[x][step] = there && row < n ? weights[row * (long long)m + column + x] : Value(0);
            value[step][x] = there && line < lines ? source(line, column + x) : Value(0);
        }
        __syncthreads();
#pragma unroll 8
        for (int c = 0; c < TILE; ++c)
#pragma unroll
            for (int each = 0; each < EACH; ++each) sum[each] = multiply_add(weight[c][x], value[EACH * y + each][c], sum[each]);
        __syncthreads();
    }
    if (first_row + x >= n) return;
#pragma unroll
    for (int each = 0; each < EACH; ++each)
        if (first_line + EACH * y + each < lines) sink(first_line + EACH * y + each, first_row + x, sum[each]);
}

// Smooth along an axis that others follow: a thread sums eight rows at one place of the axes that follow, which `inner` of them hold.
// `source(column, place)` gives a value, `sink(row, place, sum)` takes a sum. Values come straight from device memory, neighbouring
// threads side by side, once for eight rows; weights from shared memory, eight in two 16-byte loads.
template <class Value, class Sum, class Source, class Sink>
__device__ void smooth_columns(const Value* weights, const int* band, int n, int m, long long inner, Source source, Sink sink) {
    __shared__ __align__(16) Value weight[CHUNK][DEEP];
    const long long place = blockIdx.x * (long long)ACROSS + threadIdx.x;
    const int first_row = blockIdx.y * DEEP, last_row = min(first_row + DEEP, n) - 1, end = band[2 * last_row + 1];
    Sum sum[DEEP] = {};
    for (int column = band[2 * first_row]; column < end; column += CHUNK) {
        for (int item = threadIdx.x; item < CHUNK * DEEP; item += ACROSS) {
            const int c = item / DEEP, row = first_row + item % DEEP;
            weight[c][item % DEEP] = column + c < end && row < n ? weights[row * (long long)m + column + c] : Value(0);
        }
        __syncthreads();
        const int columns = min(CHUNK, end - column);
        if (place < inner) {
#pragma unroll 4
            for (int c = 0; c < columns; ++c) {
                const Value value = source(column + c, place);
#pragma unroll
                for (int deep = 0; deep < DEEP; ++deep) sum[deep] = multiply_add(weight[c][deep], value, sum[deep]);
            }
        }
        __syncthreads();
    }
    if (place >= inner) return;
#pragma unroll
    for (int deep = 0; deep < DEEP; ++deep)
        if (first_row + deep < n) sink(first_row + deep, place, sum[deep]);
}

// A share in [0, 1] as 16 bits: half the bytes of a float, wrong by at most 7.7e-6.
__device__ __forceinline__ unsigned short to_share(float value) { return (unsigned short)__float2int_rn(fminf(fmaxf(value, 0.0f), 1.0f) * 65535.0f); }
__device__ __forceinline__ float from_share(unsigned short share) { return (float)share * (1.0f / 65535.0f); }
