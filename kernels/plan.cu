// Every scalar that is drawn for a scan and its lesions: the device side of kernels/plan.py, draw for draw.
#include "rng.cuh"

constexpr int THREADS = 256;
constexpr int CLASSES = 4;  // size groups; the class after them is the mix of all

// Columns of the scan's row and of a group's row: Scan and Group in kernels/plan.py.
enum { ALTER_PROB = 0, CLASS_END = 1, DENSITY_SIGMA = 6, DENSITY_SCALE = 8, DENSITY_OFFSET = 10, GRAIN_FINE_PROB = 12, GRAIN_FINE = 13, GRAIN_COARSE = 15,
       TEXTURE_GAIN = 17, EDGE_SIGMA = 19, CONTRAST = 21 };
enum { RADIUS = 0, LESIONS = 2, MIX_LESIONS = 4, ELASTIC_SIGMA = 6, ELASTIC_INTEGER = 8, SLOTS = 9, GROUP_COLUMNS = 10 };
enum { ELASTIC_WORDS = 54, ELASTIC_BLOCKS = 14 };

// Rows of `scalars`, in the order of Draws.
enum { OUT_DENSITY_SIGMA, OUT_DENSITY_SCALE, OUT_DENSITY_OFFSET, OUT_GRAIN_SIGMA, OUT_TEXTURE_GAIN, OUT_EDGE_SIGMA, OUT_CONTRAST };

__device__ void draw_scan(float* scalars, const float* scan, unsigned long long seed, unsigned long long uid, int sample, int samples) {
    const Words first = philox(seed, uid, SCAN, 0, 0), second = philox(seed, uid, SCAN, 0, 1), third = philox(seed, uid, SCAN, 0, 2);
    const auto write = [&](int row, unsigned word, int column) { scalars[row * samples + sample] = to_uniform(word, scan[column], scan[column + 1]); };
    const bool fine = to_uniform(second.word[1]) < scan[GRAIN_FINE_PROB];
    write(OUT_DENSITY_SIGMA, first.word[2], DENSITY_SIGMA);
    write(OUT_DENSITY_SCALE, first.word[3], DENSITY_SCALE);
    write(OUT_DENSITY_OFFSET, second.word[0], DENSITY_OFFSET);
    write(OUT_GRAIN_SIGMA, second.word[2], fine ? GRAIN_FINE : GRAIN_COARSE);
    write(OUT_TEXTURE_GAIN, second.word[3], TEXTURE_GAIN);
    write(OUT_EDGE_SIGMA, third.word[0], EDGE_SIGMA);
    write(OUT_CONTRAST, third.word[1], CONTRAST);
}

// Lesions that a scan wants of a group.
__device__ int wanted(const float* row, int group, int size_class, unsigned word) {
    const int range = size_class == CLASSES ? MIX_LESIONS : LESIONS;
    return size_class == CLASSES || size_class == group ? (int)to_integer(word, (long long)row[range], (long long)row[range + 1]) : 0;
}

// One sample a block. Bytes: 60 floats written a slot; operations: 14 + 1 blocks of Philox a slot, and 27 pairs of normal numbers in double.
extern "C" __global__ void __launch_bounds__(THREADS)
draw_kernel(bool* skipped, bool* active, float* radii_mm, float* elastic_mm, float* scalars, const float* scan, const float* groups, const bool* possible,
            const long long* uids, unsigned long long seed, int slots) {
    const int sample = blockIdx.x, samples = gridDim.x, thread = threadIdx.x;
    const unsigned long long uid = (unsigned long long)uids[sample];
    const Words words = philox(seed, uid, SCAN, 0, 0);
    const bool altered = to_uniform(words.word[0]) < scan[ALTER_PROB];
    int size_class = 0;
    for (int group = 0; group < CLASSES; ++group) size_class += to_uniform(words.word[1]) >= scan[CLASS_END + group];
    if (thread == 0) {
        skipped[sample] = altered && !possible[sample];
        draw_scan(scalars, scan, seed, uid, sample, samples);
    }
    int group = 0, before = 0;  // of this slot's group
    for (int item = thread; item < slots * (ELASTIC_WORDS / 2); item += THREADS) {
        const int slot = item / (ELASTIC_WORDS / 2), pair = item % (ELASTIC_WORDS / 2);
        while (slot >= before + (int)groups[group * GROUP_COLUMNS + SLOTS]) before += (int)groups[group++ * GROUP_COLUMNS + SLOTS];
        const float* row = groups + group * GROUP_COLUMNS;
        const long long lesion = (long long)sample * slots + slot;
        const Words own = philox(seed, uid, LESION, slot, 0), block = philox(seed, uid, ELASTIC, slot, pair / 2);
        const float sigma_mm = row[ELASTIC_INTEGER] > 0.0f ? (float)to_integer(own.word[3], (long long)row[ELASTIC_SIGMA], (long long)row[ELASTIC_SIGMA + 1])
                                                           : to_uniform(own.word[3], row[ELASTIC_SIGMA], row[ELASTIC_SIGMA + 1]);
        const float2 normal = pair % 2 ? to_normal(block.word[2], block.word[3]) : to_normal(block.word[0], block.word[1]);
        elastic_mm[lesion * ELASTIC_WORDS + 2 * pair] = normal.x * sigma_mm;
        elastic_mm[lesion * ELASTIC_WORDS + 2 * pair + 1] = normal.y * sigma_mm;
        if (pair < 3) {
            const unsigned word = pair == 0 ? own.word[0] : pair == 1 ? own.word[1] : own.word[2];
            radii_mm[3 * lesion + pair] = (float)to_integer(word, (long long)row[RADIUS], (long long)row[RADIUS + 1]);
        }
        if (pair == 3) {
            const int number = wanted(row, group, size_class, philox(seed, uid, COUNT, group, 0).word[0]);
            active[lesion] = altered && possible[sample] && slot - before < number;
        }
    }
}

// Lesions and skipped samples of a plan, counted by one block. Bytes: 1 read a slot and a sample.
extern "C" __global__ void __launch_bounds__(THREADS)
tally_kernel(long long* counts, const bool* active, const bool* skipped, long long slots, long long samples) {
    __shared__ long long lesions[THREADS], missed[THREADS];
    const int thread = threadIdx.x;
    long long found = 0, left = 0;
    for (long long slot = thread; slot < slots; slot += THREADS) found += active[slot];
    for (long long sample = thread; sample < samples; sample += THREADS) left += skipped[sample];
    lesions[thread] = found;
    missed[thread] = left;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) lesions[thread] += lesions[thread + half], missed[thread] += missed[thread + half];
        __syncthreads();
    }
    if (thread == 0) counts[0] = lesions[0], counts[1] = missed[0];
}
