// Where lesions go: candidates by rank among the organ's voxels, then, slot after slot, the first that fits.
#include "labels.cuh"
#include "rng.cuh"

constexpr int THREADS = 128;
constexpr int CANDIDATES = 32, LOOKS = 256, SLOTS = 64;

// Organ voxels of one line along k a thread; `tumor_seen` is zero before. Bytes: 1 read a voxel, 4 written a line.
extern "C" __global__ void __launch_bounds__(THREADS)
lines_kernel(int* in_line, int* tumor_seen, const void* label, int kind, long long organ, long long tumor, long long lines, int n_k) {
    const long long line = blockIdx.x * (long long)THREADS + threadIdx.x, sample = blockIdx.y;
    if (line >= lines) return;
    int count = 0;
    bool has_tumor = false;
    for (int k = 0; k < n_k; ++k) {
        const long long value = read_label(label, (sample * lines + line) * n_k + k, kind);
        count += value == organ;
        has_tumor |= value == tumor;
    }
    in_line[sample * lines + line] = count;
    if (has_tumor) atomicOr(&tumor_seen[sample], 1);
}

// Running sum over a sample's lines, one sample a block: each thread adds up its own stretch, then the stretches before it.
extern "C" __global__ void __launch_bounds__(THREADS)
ends_kernel(int* ends, const int* in_line, long long lines) {
    __shared__ int sums[THREADS];
    const int thread = threadIdx.x;
    const long long each = (lines + THREADS - 1) / THREADS, first = thread * each, last = min(first + each, lines), start = blockIdx.x * lines;
    int sum = 0;
    for (long long line = first; line < last; ++line) sum += in_line[start + line];
    sums[thread] = sum;
    __syncthreads();
    int before = 0;
    for (int other = 0; other < thread; ++other) before += sums[other];
    for (long long line = first; line < last; ++line) ends[start + line] = before += in_line[start + line];
}

// Candidates of one slot of one sample a block: blocks (slots, samples). Which of them would reach a vessel, all threads find out.
// Bytes: a line of labels and 256 looks a candidate.
extern "C" __global__ void __launch_bounds__(THREADS)
candidates_kernel(float* centre_vox, bool* clear, const int* ends, const void* label, const unsigned char* vessel, const float* looks, const float* reach_mm,
                  const long long* uids, unsigned long long seed, int kind, long long organ, int n_i, int n_j, int n_k, float mm_i, float mm_j, float mm_k) {
    __shared__ float centre[CANDIDATES][3];
    __shared__ int hit[CANDIDATES];
    const int slot = blockIdx.x, slots = gridDim.x, thread = threadIdx.x;
    const long long sample = blockIdx.y, lines = (long long)n_i * n_j;
    const int* end = ends + sample * lines;
    const long long row = (sample * slots + slot) * CANDIDATES;
    if (thread < CANDIDATES) {
        const Words words = philox(seed, (unsigned long long)uids[sample], SITE, slot, thread);
        const long long total = end[lines - 1], rank = to_integer(words.word[0], 0, total - 1);
        long long low = 0, high = lines - 1;
        while (low < high) {
            const long long middle = (low + high) / 2;
            if (end[middle] > rank) high = middle;
            else low = middle + 1;
        }
        long long left = rank - (low > 0 ? end[low - 1] : 0);
        int k = 0;
        for (; k < n_k - 1; ++k)
            if (read_label(label, (sample * lines + low) * n_k + k, kind) == organ && left-- == 0) break;
        centre[thread][0] = (float)(low / n_j) + (to_uniform(words.word[1]) - 0.5f);
        centre[thread][1] = (float)(low % n_j) + (to_uniform(words.word[2]) - 0.5f);
        centre[thread][2] = (float)k + (to_uniform(words.word[3]) - 0.5f);
        hit[thread] = 0;
    }
    __syncthreads();
    const float reach = reach_mm[sample * slots + slot], step_i = reach / mm_i, step_j = reach / mm_j, step_k = reach / mm_k;
    for (int item = thread; vessel && item < CANDIDATES * LOOKS; item += THREADS) {
        const float *at = centre[item / LOOKS], *look = looks + 3 * (item % LOOKS);
        const float i = rintf(at[0] + look[0] * step_i), j = rintf(at[1] + look[1] * step_j), k = rintf(at[2] + look[2] * step_k);
        if (i < 0 || i >= n_i || j < 0 || j >= n_j || k < 0 || k >= n_k) continue;
        if (vessel[((sample * n_i + (long long)i) * n_j + (long long)j) * n_k + (long long)k]) atomicOr(&hit[item / LOOKS], 1);
    }
    __syncthreads();
    if (thread >= CANDIDATES) return;
    for (int axis = 0; axis < 3; ++axis) centre_vox[3 * (row + thread) + axis] = centre[thread][axis];
    clear[row + thread] = !hit[thread];
}

// One sample a block, one candidate a thread: slot after slot, the first candidate that keeps its distance from all lesions before it.
extern "C" __global__ void __launch_bounds__(CANDIDATES)
choose_kernel(float* chosen_vox, bool* placed, bool* possible, const float* centre_vox, const bool* clear, const float* reach_mm, const bool* active,
              const int* ends, const int* tumor_seen, float apart_mm, int slots, long long lines, float mm_i, float mm_j, float mm_k) {
    __shared__ float chosen[SLOTS][4];  // centre and reach, in mm; a reach below none is no lesion
    __shared__ int first;
    const int thread = threadIdx.x;
    const long long sample = blockIdx.x;
    const bool can = ends[sample * lines + lines - 1] > 0 && !tumor_seen[sample];
    if (thread == 0) possible[sample] = can;
    for (int slot = 0; slot < slots; ++slot) {
        const long long lesion = sample * slots + slot;
        const float* at = centre_vox + 3 * (lesion * CANDIDATES + thread);
        const float x = at[0] * mm_i, y = at[1] * mm_j, z = at[2] * mm_k, reach = reach_mm[lesion];
        if (thread == 0) first = CANDIDATES;
        __syncthreads();
        bool fits = clear[lesion * CANDIDATES + thread];
        for (int other = 0; other < slot; ++other) {
            const float dx = x - chosen[other][0], dy = y - chosen[other][1], dz = z - chosen[other][2], least = fmaxf(reach + chosen[other][3] + apart_mm, 0.0f);
            fits = fits && (chosen[other][3] < 0.0f || dx * dx + dy * dy + dz * dz >= least * least);
        }
        if (fits) atomicMin(&first, thread);
        __syncthreads();
        const bool here = active[lesion] && can && first < CANDIDATES;
        if (thread == min(first, CANDIDATES - 1)) {
            for (int axis = 0; axis < 3; ++axis) chosen_vox[3 * lesion + axis] = at[axis];
            placed[lesion] = here;
            chosen[slot][0] = x, chosen[slot][1] = y, chosen[slot][2] = z, chosen[slot][3] = here ? reach : -1.0f;
        }
        __syncthreads();
    }
}
