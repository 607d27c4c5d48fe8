// What every lesion is like: the device side of kernels/traits.py, draw for draw.
#include "outline.cuh"

constexpr int THREADS = 256;  // as many as directions
constexpr float RIM_PART = 0.39f, CAPSULE_PART = 3.76f, EDGE_PART = 1.2f, LEAST_HELD = 0.5f, FLOOR_MARGIN = 1.15f, ENHANCED_HU = 80.0f;
constexpr float CAPSULE_FROM_MM = 10.0f;

// Columns of the scan's and of a kind's row, and which word draws what: Scan, Kind, Word and ScanWord in kernels/_columns.py.
enum { ALTER_PROB = 0, LESIONS = 1, AXIS_RATIO = 3, SCAN_IRREGULARITY = 5, SCAN_LOBULATION = 7, SCAN_SPICULATION = 9, SCAN_TEXTURE_MM = 11, EDGE_SHARE = 13,
       EDGE_MM = 14, CNR_FLOOR = 16, ORGAN_HU = 17, SIZE_END = 18, SIZE_MM = 22, MASS_EFFECT = 27, SCAN_BULGE = 29, SCAN_HALO = 31, SCAN_HALO_MM = 33,
       CLUSTER_PROB = 35, CLUSTER_MM = 36, SATELLITE_PROB = 37, SATELLITES = 38, SATELLITE_FROM_MM = 40, SATELLITE_RADIUS_MM = 41, SATELLITE_MM = 43,
       CIRRHOSIS_PROB = 44, SURFACE_MM = 45, NODULE_HU = 47, SIZE_START = 49, CURRICULUM = 53 };
enum { END = 0, TARGET = 1, KIND_BODY = 2, KIND_CORE = 4, KIND_CORE_SHARE = 6, KIND_RIM = 8, KIND_TEXTURE = 10, SPECK_HU = 12, KIND_SPECK_SHARE = 14, KIND_EDGE = 15,
       OFFSET_HU = 16, CAPSULE_HU = 17, KIND_CAPSULE_MM = 19, OUTLINE_FACTOR = 20,
       SPECK_PART = 21, KIND_COLUMNS = 22 };
enum { W_SIZE_BIN, W_SIZE, W_AXES, W_ROTATION = 4, W_IRREGULARITY = 7, W_LOBULATION, W_SPICULATION, W_KIND, W_BODY, W_CORE, W_CORE_SHARE, W_RIM, W_TEXTURE,
       W_TEXTURE_MM, W_SPECK, W_PUSH, W_BULGE, W_CAPSULE, W_HALO, W_HALO_MM, WORDS };
enum { S_ALTER, S_CLUSTER, S_SATELLITE, S_SATELLITES, S_CIRRHOSIS, S_SURFACE_MM, S_NODULE_HU, SCAN_WORDS };

struct Drawing {
    unsigned long long seed, uid;

    __device__ unsigned word(unsigned purpose, int slot, int n) const {
        const Words block = philox(seed, uid, purpose, slot, n / 4);
        return n % 4 == 0 ? block.word[0] : n % 4 == 1 ? block.word[1] : n % 4 == 2 ? block.word[2] : block.word[3];
    }

    // A size bin, by probabilities that move as the run goes on, then log-uniform within it.
    __device__ float radius(int slot, const float* scan) const {
        const float samples = scan[CURRICULUM], way = samples > 0.0f ? fminf(fmaxf((float)(long long)uid / fmaxf(samples, 1.0f), 0.0f), 1.0f) : 1.0f;
        int bin = 0;
        for (int n = 0; n < 3; ++n) {
            const float end = scan[SIZE_START + n] + way * (scan[SIZE_END + n] - scan[SIZE_START + n]);
            bin += to_uniform(word(TRAIT, slot, W_SIZE_BIN)) >= end;
        }
        const float low = scan[SIZE_MM + bin];
        return low * expf(logf(scan[SIZE_MM + bin + 1] / low) * to_uniform(word(TRAIT, slot, W_SIZE)));
    }

    __device__ int kind(int slot, const float* kinds, int kind_count) const {
        int kind = 0;
        for (int n = 0; n < kind_count - 1; ++n) kind += to_uniform(word(TRAIT, slot, W_KIND)) >= kinds[n * KIND_COLUMNS + END];
        return kind;
    }
};

// What comes of a sample once its lesions have their places, one sample a block: those at the organ's surface push harder, and farther, up to
// `bulge_reach`; a sample without any is skipped, if it was to be altered, and its organ stays as it is. `cirrhosis` is (2, samples).
extern "C" __global__ void __launch_bounds__(THREADS)
settle_kernel(float* lesions, bool* skipped, float* cirrhosis, const bool* altered, const bool* placed, const bool* at_surface, const float* drawn_cirrhosis,
              int slots, float bulge_reach) {
    const int sample = blockIdx.x, samples = gridDim.x;
    bool any = false;
    for (int slot = threadIdx.x; slot < slots; slot += THREADS) {
        const long long lesion = (long long)sample * slots + slot;
        float* row = lesions + lesion * TRAITS;
        any |= placed[lesion];
        if (at_surface[lesion] && row[BULGE] > 0.0f) row[PUSH] = fmaxf(row[PUSH], row[BULGE]), row[PUSH_MM] = bulge_reach * row[PUSH_MM];
    }
    const float share = __syncthreads_or(any) ? 1.0f : 0.0f;
    if (threadIdx.x > 0) return;
    skipped[sample] = altered[sample] && share == 0.0f;
    for (int n = 0; n < 2; ++n) cirrhosis[n * samples + sample] = drawn_cirrhosis[2 * sample + n] * share;
}

// One slot of one sample a block: blocks (slots, samples). A thread measures the outline in one of 256 directions, then one thread draws.
// Bytes: 31 floats written a lesion; operations: 24 waves a thread, 6 blocks of Philox, and two for each lesion where satellites are looked at.
extern "C" __global__ void __launch_bounds__(THREADS)
traits_kernel(bool* altered, bool* active, float* lesions, float* cirrhosis, const float* scan, const float* kinds, const float* directions,
              const long long* uids, const float* organ_hu, const float* noise_hu, unsigned long long seed, int kind_count, int main_slots) {
    __shared__ float4 waves[OUTLINE_WAVES];
    __shared__ float volume[THREADS], reach[THREADS];
    __shared__ unsigned words[WORDS], scan_words[SCAN_WORDS];  // of the lesion and of the scan, each drawn by a thread
    const int slot = blockIdx.x, slots = gridDim.x, sample = blockIdx.y, thread = threadIdx.x;
    const Drawing draw = {seed, (unsigned long long)uids[sample]};
    if (thread < OUTLINE_WAVES) waves[thread] = wave_of(seed, draw.uid, slot, thread);
    if (thread < WORDS) words[thread] = draw.word(TRAIT, slot, thread);
    if (thread >= THREADS - SCAN_WORDS) scan_words[thread - (THREADS - SCAN_WORDS)] = draw.word(SCAN, 0, thread - (THREADS - SCAN_WORDS));
    __syncthreads();
    const auto within = [&](int n, const float* range) { return to_uniform(words[n], range[0], range[1]); };
    const auto scan_uniform = [&](int n) { return to_uniform(scan_words[n]); };
    const bool is_altered = scan_uniform(S_ALTER) < scan[ALTER_PROB];
    const int count = (int)to_integer(draw.word(COUNT, 0, 0), (long long)scan[LESIONS], (long long)scan[LESIONS + 1]);
    int largest = -1;
    float radius = slot < main_slots ? draw.radius(slot, scan) : 0.0f, most = -1.0f;
    if (slot >= main_slots) {
        for (int other = 0; other < min(count, main_slots) && is_altered; ++other) {
            const float size = draw.radius(other, scan);
            if (size > most) most = size, largest = other;
        }
        const int satellites = (int)to_integer(scan_words[S_SATELLITES], (long long)scan[SATELLITES], (long long)scan[SATELLITES + 1]);
        const bool has = scan_uniform(S_SATELLITE) < scan[SATELLITE_PROB] && most >= scan[SATELLITE_FROM_MM] && slot - main_slots < satellites;
        if (!has) largest = -1;
        radius = has ? fminf(within(W_SIZE, scan + SATELLITE_RADIUS_MM), 0.5f * most) : draw.radius(slot, scan);
    }
    const bool clustered = scan_uniform(S_CLUSTER) < scan[CLUSTER_PROB] && slot > 0 && slot < main_slots;
    const int kind = draw.kind(largest < 0 ? slot : largest, kinds, kind_count);
    const float* row = kinds + kind * KIND_COLUMNS;
    const float irregularity = within(W_IRREGULARITY, scan + SCAN_IRREGULARITY) * row[OUTLINE_FACTOR];
    const float lobulation = within(W_LOBULATION, scan + SCAN_LOBULATION) * row[OUTLINE_FACTOR];
    const float spiculation = within(W_SPICULATION, scan + SCAN_SPICULATION) * row[OUTLINE_FACTOR];
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
    const float second = within(W_AXES, scan + AXIS_RATIO), third = within(W_AXES + 1, scan + AXIS_RATIO);
    const float scale = radius / powf(volume[0] / (float)THREADS * (second * third), 1.0f / 3.0f);
    const float u = to_uniform(words[W_ROTATION]), near = sqrtf(1.0f - u), away = sqrtf(u);
    const float turn = 2.0f * to_uniform(words[W_ROTATION + 1]), other = 2.0f * to_uniform(words[W_ROTATION + 2]);
    const float organ = fmaxf(organ_hu[sample], scan[ORGAN_HU]), floor = FLOOR_MARGIN * scan[CNR_FLOOR] * noise_hu[sample];
    const float edge = fminf(fmaxf(scan[EDGE_SHARE] * radius, scan[EDGE_MM]), scan[EDGE_MM + 1]) * row[KIND_EDGE], speck = within(W_SPECK, row + SPECK_HU);
    const float core = within(W_CORE, row + KIND_CORE) * organ, share = within(W_CORE_SHARE, row + KIND_CORE_SHARE), rim = within(W_RIM, row + KIND_RIM) * organ;
    const float capsule = within(W_CAPSULE, row + CAPSULE_HU) * fminf(radius / CAPSULE_FROM_MM, 1.0f);
    const float inner = fminf(CAPSULE_PART * row[KIND_CAPSULE_MM] / radius, 1.0f);
    out[CAPSULE] = capsule;
    const float others = core * (share * share * share) + rim * RIM_PART + capsule * inner + speck * row[SPECK_PART];  // in the lesion's mean
    const float held = fmaxf(1.0f - EDGE_PART * edge / radius, LEAST_HELD), offset = row[OFFSET_HU] * fminf(organ / ENHANCED_HU, 1.0f);
    const float drawn = within(W_BODY, row + KIND_BODY), wanted = (row[TARGET] > 0.0f ? drawn - organ_hu[sample] : drawn * organ) + offset;
    const float body = wanted < 0.0f ? fminf(wanted, -(floor + others) / held) : fmaxf(wanted, (floor - others) / held);
    const float texture_mm = within(W_TEXTURE_MM, scan + SCAN_TEXTURE_MM), mild = fminf(radius / texture_mm, 1.0f);  // no texture, but another contrast
    out[RADIUS] = out[PUSH_MM] = radius;
    out[AXES] = scale, out[AXES + 1] = second * scale, out[AXES + 2] = third * scale;
    out[ROTATION] = away * cospif(other), out[ROTATION + 1] = near * sinpif(turn), out[ROTATION + 2] = near * cospif(turn), out[ROTATION + 3] = away * sinpif(other);
    out[IRREGULARITY] = irregularity, out[LOBULATION] = lobulation, out[SPICULATION] = spiculation;
    out[KIND] = (float)kind;
    out[BODY] = body;
    out[CORE] = core, out[CORE_SHARE] = share, out[RIM] = rim;
    out[TEXTURE] = within(W_TEXTURE, row + KIND_TEXTURE) * fabsf(body) * mild;
    out[TEXTURE_MM] = speck != 0.0f ? fminf(texture_mm, radius) : texture_mm;  // so that small lesions have specks too
    out[SPECK] = speck;
    out[SPECK_SHARE] = row[KIND_SPECK_SHARE];
    out[EDGE] = edge;
    out[REACH] = 1.1f * reach[0];
    out[PUSH] = within(W_PUSH, scan + MASS_EFFECT);
    out[BULGE] = within(W_BULGE, scan + SCAN_BULGE);
    out[CAPSULE_MM] = row[KIND_CAPSULE_MM];
    out[HALO] = within(W_HALO, scan + SCAN_HALO) * organ;
    out[HALO_MM] = within(W_HALO_MM, scan + SCAN_HALO_MM);
    out[PARENT] = (float)(clustered ? 0 : largest);
    out[WITHIN_MM] = scan[slot < main_slots ? CLUSTER_MM : SATELLITE_MM];
    active[(long long)sample * slots + slot] = slot < main_slots ? is_altered && slot < count : largest >= 0;
    if (slot > 0) return;
    altered[sample] = is_altered;
    const bool has_cirrhosis = scan_uniform(S_CIRRHOSIS) < scan[CIRRHOSIS_PROB];
    cirrhosis[2 * sample] = has_cirrhosis ? to_uniform(scan_words[S_SURFACE_MM], scan[SURFACE_MM], scan[SURFACE_MM + 1]) : 0.0f;
    cirrhosis[2 * sample + 1] = has_cirrhosis ? to_uniform(scan_words[S_NODULE_HU], scan[NODULE_HU], scan[NODULE_HU + 1]) : 0.0f;
}
