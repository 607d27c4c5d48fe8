// Where lesions go: candidates by rank among the organ's voxels, then, slot after slot, the first that fits; those that lie near another
// lesion draw their candidates around it.
#include "labels.cuh"
#include "outline.cuh"

constexpr int THREADS = 128;
constexpr int CANDIDATES = 64, LOOKS = 256, SLOTS = 64;
constexpr float DENT = 0.15f;
enum { ORGAN_SEEN = 1, TUMOR_SEEN = 2 };
enum { FREE, OUTSIDE, VESSEL };  // what a voxel is to a lesion

// How far a lesion reaches from its centre.
__device__ __forceinline__ float reach_mm(const float* row) { return fmaxf(row[AXES], fmaxf(row[AXES + 1], row[AXES + 2])) * row[REACH]; }

// Organ voxels of one line along k a thread, or what the map says of them; `seen_in` is zero before. Bytes: 1 or 2 read a voxel, 8 written a line.
extern "C" __global__ void __launch_bounds__(THREADS)
lines_kernel(long long* in_line, int* seen_in, const void* label, const unsigned char* where, int kind, long long organ, long long tumor, long long lines,
             int n_k) {
    const long long line = blockIdx.x * (long long)THREADS + threadIdx.x, sample = blockIdx.y;
    if (line >= lines) return;
    long long count = 0;
    int has = 0;
    for (int k = 0; k < n_k; ++k) {
        const long long at = (sample * lines + line) * n_k + k, value = read_label(label, at, kind);
        if (value == organ) count += where ? where[at] : 1;
        has |= (value == tumor ? TUMOR_SEEN : 0) | (value == organ ? ORGAN_SEEN : 0);
    }
    in_line[sample * lines + line] = count;
    if (has) atomicOr(&seen_in[sample], has);
}

// Running sum over a sample's lines, one sample a block: each thread adds up its own stretch, then the stretches before it.
extern "C" __global__ void __launch_bounds__(THREADS)
ends_kernel(long long* ends, const long long* in_line, long long lines) {
    __shared__ long long sums[THREADS];
    const int thread = threadIdx.x;
    const long long each = (lines + THREADS - 1) / THREADS, first = thread * each, last = min(first + each, lines), start = blockIdx.x * lines;
    long long sum = 0;
    for (long long line = first; line < last; ++line) sum += in_line[start + line];
    sums[thread] = sum;
    __syncthreads();
    long long before = 0;
    for (int other = 0; other < thread; ++other) before += sums[other];
    for (long long line = first; line < last; ++line) ends[start + line] = before += in_line[start + line];
}

// What both kernels below look at.
struct Scene {
    const void* label;
    const unsigned char* vessel;
    const float* looks;
    long long organ;
    int kind, n_i, n_j, n_k;
    float mm_i, mm_j, mm_k;

    // Index of the voxel at a point, −1 beyond the array.
    __device__ long long voxel(long long sample, float x, float y, float z) const {
        const float i = rintf(x), j = rintf(y), k = rintf(z);
        if (!(i >= 0 && i < n_i && j >= 0 && j < n_j && k >= 0 && k < n_k)) return -1;
        return ((sample * n_i + (long long)i) * n_j + (long long)j) * n_k + (long long)k;
    }

    // Voxel at one of the points spread over a lesion's ball.
    __device__ long long at_look(long long sample, const float* at, float reach_mm, int which) const {
        const float* offset = looks + 3 * which;
        return voxel(sample, at[0] + offset[0] * (reach_mm / mm_i), at[1] + offset[1] * (reach_mm / mm_j), at[2] + offset[2] * (reach_mm / mm_k));
    }

    __device__ bool in_organ(long long at) const { return at >= 0 && read_label(label, at, kind) == organ; }

    // What is seen there: nothing, the outside of the organ, a vessel in it.
    __device__ int look(long long sample, const float* at, float reach_mm, int which) const {
        const long long voxel = at_look(sample, at, reach_mm, which);
        return voxel < 0 ? FREE : !in_organ(voxel) ? OUTSIDE : vessel && vessel[voxel] ? VESSEL : FREE;
    }
};

// Candidates of one slot of one sample a block: blocks (slots, samples). Which of them would reach a vessel, all threads find out.
// Bytes: a line of labels and 256 looks a candidate.
extern "C" __global__ void __launch_bounds__(THREADS)
candidates_kernel(float* centre_vox, bool* clear, const long long* ends, const unsigned char* where, const void* label, const unsigned char* vessel,
                  const float* looks, const float* lesions, const long long* uids, unsigned long long seed, float avoid_to_mm, int most_outside, int kind, long long organ, int n_i, int n_j, int n_k,
                  float mm_i, float mm_j, float mm_k) {
    const Scene scene = {label, vessel, looks, organ, kind, n_i, n_j, n_k, mm_i, mm_j, mm_k};
    __shared__ float centre[CANDIDATES][3];
    __shared__ int hit[CANDIDATES], outside[CANDIDATES];
    const int slot = blockIdx.x, slots = gridDim.x, thread = threadIdx.x;
    const long long sample = blockIdx.y, lines = (long long)n_i * n_j;
    const long long* end = ends + sample * lines;
    const long long first = (sample * slots + slot) * CANDIDATES;
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
        for (; k < n_k - 1; ++k) {
            const long long at = (sample * lines + low) * n_k + k;
            if (scene.in_organ(at)) left -= where ? where[at] : 1;
            if (left < 0) break;
        }
        centre[thread][0] = (float)(low / n_j) + (to_uniform(words.word[1]) - 0.5f);
        centre[thread][1] = (float)(low % n_j) + (to_uniform(words.word[2]) - 0.5f);
        centre[thread][2] = (float)k + (to_uniform(words.word[3]) - 0.5f);
        hit[thread] = outside[thread] = 0;
    }
    __syncthreads();
    const float reach = reach_mm(lesions + (sample * slots + slot) * TRAITS), *row = lesions + (sample * slots + slot) * TRAITS;
    for (int item = thread; item < CANDIDATES * LOOKS; item += THREADS) {
        const int seen = scene.look(sample, centre[item / LOOKS], reach, item % LOOKS);
        if (seen == VESSEL && row[RADIUS] <= avoid_to_mm) atomicOr(&hit[item / LOOKS], 1);
        if (seen == OUTSIDE) atomicAdd(&outside[item / LOOKS], 1);
    }
    __syncthreads();
    if (thread >= CANDIDATES) return;
    for (int axis = 0; axis < 3; ++axis) centre_vox[3 * (first + thread) + axis] = centre[thread][axis];
    clear[first + thread] = end[lines - 1] > 0 && !hit[thread] && outside[thread] <= most_outside;
}

// One sample a block, one candidate a thread: slot after slot, the first candidate that keeps its distance from all lesions before it. For a
// lesion near another the candidates are made here, as that one's place is known only now; all threads look for vessels around them.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
choose_kernel(float* chosen_vox, bool* placed, bool* at_surface, bool* possible, const float* centre_vox, const bool* clear, const bool* active,
              const float* given_vox, const int* seen_in,
              float apart_mm, int slots, const void* label, const unsigned char* vessel, const float* looks, const float* lesions, const long long* uids,
              unsigned long long seed, float avoid_to_mm, int most_outside, int kind, long long organ, int n_i, int n_j, int n_k, float mm_i, float mm_j, float mm_k) {
    const Scene scene = {label, vessel, looks, organ, kind, n_i, n_j, n_k, mm_i, mm_j, mm_k};
    __shared__ float chosen[SLOTS][4];  // centre in voxels, and reach in mm; a reach below none is no lesion
    __shared__ float candidate[CANDIDATES][3];
    __shared__ float4 waves[OUTLINE_WAVES];  // of the parent
    __shared__ int first, beyond, hit[CANDIDATES], outside[CANDIDATES];
    const int thread = threadIdx.x;
    const long long sample = blockIdx.x;
    const bool can = seen_in[sample] == ORGAN_SEEN;
    if (thread == 0) possible[sample] = can;
    const auto given_at = [&](long long lesion) -> const float* {
        const float* at = given_vox ? given_vox + 3 * lesion : nullptr;
        return at && isfinite(at[0]) && isfinite(at[1]) && isfinite(at[2]) ? at : nullptr;
    };
    for (int slot = thread; slot < slots; slot += THREADS) {
        const float* at = given_at(sample * slots + slot);
        for (int axis = 0; axis < 3; ++axis) chosen[slot][axis] = at ? at[axis] : 0.0f;
        chosen[slot][3] = at && can && active[sample * slots + slot] ? reach_mm(lesions + (sample * slots + slot) * TRAITS) : -1.0f;
    }
    for (int slot = 0; slot < slots; ++slot) {
        const long long lesion = sample * slots + slot;
        const float* row = lesions + lesion * TRAITS;
        const int parent = (int)row[PARENT];
        const float reach = reach_mm(row), *given = given_at(lesion);
        if (thread == 0) first = CANDIDATES, beyond = 0;
        if (parent >= 0 && thread < OUTLINE_WAVES) waves[thread] = wave_of(seed, (unsigned long long)uids[sample], parent, thread);
        __syncthreads();
        if (thread < CANDIDATES) {
            const float* at = centre_vox + 3 * (lesion * CANDIDATES + thread);
            float x = at[0], y = at[1], z = at[2];
            bool out = !clear[lesion * CANDIDATES + thread];
            if (parent >= 0) {
                const Words words = philox(seed, (unsigned long long)uids[sample], SITE, slot, thread);
                const float up = 2.0f * to_uniform(words.word[1]) - 1.0f, across = sqrtf(1.0f - up * up), turn = 2.0f * to_uniform(words.word[2]);
                const float along_i = across * cospif(turn), along_j = across * sinpif(turn);
                const float* of_parent = lesions + (sample * slots + parent) * TRAITS;
                const float3 way = in_axes(of_parent, along_i, along_j, up);
                const float rho = sqrtf(way.x * way.x + way.y * way.y + way.z * way.z);
                const float outline = radius_at(waves, of_parent[IRREGULARITY], of_parent[LOBULATION], of_parent[SPICULATION], way.x / rho, way.y / rho, way.z / rho);
                const float surface = fminf(outline, of_parent[REACH]) / rho, least = fmaxf((1.0f + DENT) * surface + reach + apart_mm, 0.0f);
                const float most = fmaxf(surface + row[WITHIN_MM], least + 1.0f);
                const float distance = least + to_uniform(words.word[0]) * (most - least);
                x = chosen[parent][0] + distance * along_i / mm_i;
                y = chosen[parent][1] + distance * along_j / mm_j;
                z = chosen[parent][2] + distance * up / mm_k;
                out = chosen[parent][3] < 0.0f || !scene.in_organ(scene.voxel(sample, x, y, z));
            }
            candidate[thread][0] = x, candidate[thread][1] = y, candidate[thread][2] = z, hit[thread] = out, outside[thread] = 0;
        }
        __syncthreads();
        for (int item = thread; parent >= 0 && active[lesion] && item < CANDIDATES * LOOKS; item += THREADS) {
            const int seen = scene.look(sample, candidate[item / LOOKS], reach, item % LOOKS);
            if (seen == VESSEL && row[RADIUS] <= avoid_to_mm) atomicOr(&hit[item / LOOKS], 1);
            if (seen == OUTSIDE) atomicAdd(&outside[item / LOOKS], 1);
        }
        __syncthreads();
        if (thread < CANDIDATES) {
            bool fits = !hit[thread] && outside[thread] <= most_outside;
            for (int other = 0; other < slots; ++other) {
                if (other == slot || other == parent) continue;
                const float dx = (candidate[thread][0] - chosen[other][0]) * mm_i, dy = (candidate[thread][1] - chosen[other][1]) * mm_j;
                const float dz = (candidate[thread][2] - chosen[other][2]) * mm_k, least = fmaxf(reach + chosen[other][3] + apart_mm, 0.0f);
                fits = fits && (chosen[other][3] < 0.0f || dx * dx + dy * dy + dz * dz >= least * least);
            }
            if (fits) atomicMin(&first, thread);
        }
        __syncthreads();
        const bool here = active[lesion] && can && (given || first < CANDIDATES);
        const float* at = given ? given : candidate[min(first, CANDIDATES - 1)];
        for (int which = thread; which < LOOKS; which += THREADS)
            if (scene.look(sample, at, reach, which) == OUTSIDE) atomicOr(&beyond, 1);
        __syncthreads();
        if (thread == 0) {
            for (int axis = 0; axis < 3; ++axis) chosen_vox[3 * lesion + axis] = chosen[slot][axis] = at[axis];
            chosen[slot][3] = here ? reach : -1.0f;
            placed[lesion] = here;
            at_surface[lesion] = beyond;
        }
    }
}
