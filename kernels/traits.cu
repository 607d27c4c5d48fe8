// What every lesion is like: the device side of kernels/traits.py, draw for draw.
#include "outline.cuh"

constexpr int THREADS = 64;

// Columns of the scan's and of a kind's row, and which word draws what: Scan, Kind and Word in kernels/traits.py.
enum { ALTER_PROB = 0, LESIONS = 1, AXIS_RATIO = 3, SCAN_IRREGULARITY = 5, SCAN_LOBULATION = 7, SCAN_SPICULATION = 9, SCAN_TEXTURE_MM = 11, EDGE_SHARE = 13,
       EDGE_MM = 14, CNR_FLOOR = 16, ORGAN_HU = 17, SIZE_END = 18, SIZE_MM = 22, MASS_EFFECT = 27 };
enum { END = 0, TARGET = 1, KIND_BODY = 2, KIND_CORE = 4, KIND_CORE_SHARE = 6, KIND_RIM = 8, KIND_TEXTURE = 10, SPECK_HU = 12, KIND_SPECK_SHARE = 14, KIND_EDGE = 15,
       KIND_COLUMNS = 16 };
enum { W_SIZE_BIN, W_SIZE, W_AXES, W_ROTATION = 4, W_IRREGULARITY = 7, W_LOBULATION, W_SPICULATION, W_KIND, W_BODY, W_CORE, W_CORE_SHARE, W_RIM, W_TEXTURE,
       W_TEXTURE_MM, W_SPECK, W_PUSH };

// One lesion slot of one sample a block: blocks (slots, samples). A thread measures the outline in one of 64 directions, then one thread draws.
// Bytes: 23 floats written a lesion; operations: 24 waves a thread, 5 blocks of Philox.
extern "C" __global__ void __launch_bounds__(THREADS)
traits_kernel(bool* altered, bool* active, float* lesions, const float* scan, const float* kinds, const float* directions, const long long* uids,
              const float* organ_hu, const float* noise_hu, unsigned long long seed, int kind_count) {
    __shared__ float4 waves[OUTLINE_WAVES];
    __shared__ float volume[THREADS], reach[THREADS];
    const int slot = blockIdx.x, slots = gridDim.x, sample = blockIdx.y, thread = threadIdx.x;
    const unsigned long long uid = (unsigned long long)uids[sample];
    if (thread < OUTLINE_WAVES) waves[thread] = wave_of(seed, uid, slot, thread);
    __syncthreads();
    const auto word = [&](int n) {
        const Words block = philox(seed, uid, TRAIT, slot, n / 4);
        return n % 4 == 0 ? block.word[0] : n % 4 == 1 ? block.word[1] : n % 4 == 2 ? block.word[2] : block.word[3];
    };
    const auto within = [&](int n, const float* range) { return to_uniform(word(n), range[0], range[1]); };
    const float irregularity = within(W_IRREGULARITY, scan + SCAN_IRREGULARITY), lobulation = within(W_LOBULATION, scan + SCAN_LOBULATION);
    const float spiculation = within(W_SPICULATION, scan + SCAN_SPICULATION);
    const float far = radius_at(waves, irregularity, lobulation, spiculation, directions[3 * thread], directions[3 * thread + 1], directions[3 * thread + 2]);
    volume[thread] = far * far * far;
    reach[thread] = far;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) volume[thread] += volume[thread + half], reach[thread] = fmaxf(reach[thread], reach[thread + half]);
        __syncthreads();
    }
    if (thread > 0) return;

    float* out = lesions + ((long long)sample * slots + slot) * TRAITS;
    int bin = 0, kind = 0;
    for (int n = 0; n < 3; ++n) bin += to_uniform(word(W_SIZE_BIN)) >= scan[SIZE_END + n];
    for (int n = 0; n < kind_count - 1; ++n) kind += to_uniform(word(W_KIND)) >= kinds[n * KIND_COLUMNS + END];
    const float* row = kinds + kind * KIND_COLUMNS;
    const float low = scan[SIZE_MM + bin], radius = low * expf(logf(scan[SIZE_MM + bin + 1] / low) * to_uniform(word(W_SIZE)));
    const float second = within(W_AXES, scan + AXIS_RATIO), third = within(W_AXES + 1, scan + AXIS_RATIO);
    const float scale = radius / powf(volume[0] / (float)THREADS * (second * third), 1.0f / 3.0f);
    const float u = to_uniform(word(W_ROTATION)), near = sqrtf(1.0f - u), away = sqrtf(u);
    const float turn = 2.0f * to_uniform(word(W_ROTATION + 1)), other = 2.0f * to_uniform(word(W_ROTATION + 2));
    const float organ = fmaxf(organ_hu[sample], scan[ORGAN_HU]), floor = scan[CNR_FLOOR] * noise_hu[sample];
    const float drawn = within(W_BODY, row + KIND_BODY), wanted = row[TARGET] > 0.0f ? drawn - organ_hu[sample] : drawn * organ;
    const float body = wanted < 0.0f ? fminf(wanted, -floor) : fmaxf(wanted, floor);
    out[RADIUS] = radius;
    out[AXES] = scale, out[AXES + 1] = second * scale, out[AXES + 2] = third * scale;
    out[ROTATION] = away * cospif(other), out[ROTATION + 1] = near * sinpif(turn), out[ROTATION + 2] = near * cospif(turn), out[ROTATION + 3] = away * sinpif(other);
    out[IRREGULARITY] = irregularity, out[LOBULATION] = lobulation, out[SPICULATION] = spiculation;
    out[KIND] = (float)kind;
    out[BODY] = body;
    out[CORE] = within(W_CORE, row + KIND_CORE) * organ;
    out[CORE_SHARE] = within(W_CORE_SHARE, row + KIND_CORE_SHARE);
    out[RIM] = within(W_RIM, row + KIND_RIM) * organ;
    out[TEXTURE] = within(W_TEXTURE, row + KIND_TEXTURE) * fabsf(body);
    out[TEXTURE_MM] = within(W_TEXTURE_MM, scan + SCAN_TEXTURE_MM);
    out[SPECK] = within(W_SPECK, row + SPECK_HU);
    out[SPECK_SHARE] = row[KIND_SPECK_SHARE];
    out[EDGE] = fminf(fmaxf(scan[EDGE_SHARE] * radius, scan[EDGE_MM]), scan[EDGE_MM + 1]) * row[KIND_EDGE];
    out[REACH] = 1.1f * reach[0];
    out[PUSH] = within(W_PUSH, scan + MASS_EFFECT);

    const bool is_altered = to_uniform(philox(seed, uid, SCAN, 0, 0).word[0]) < scan[ALTER_PROB];
    const long long count = to_integer(philox(seed, uid, COUNT, 0, 0).word[0], (long long)scan[LESIONS], (long long)scan[LESIONS + 1]);
    active[(long long)sample * slots + slot] = is_altered && slot < count;
    if (slot == 0) altered[sample] = is_altered;
}
