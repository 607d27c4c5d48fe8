// Lesions as radiologists know them, painted voxel by voxel: the device side of kernels/lesion.py.
#include "images.cuh"
#include "labels.cuh"
#include "outline.cuh"

constexpr int ACROSS_J = 8, ACROSS_K = 32, THREADS = ACROSS_J * ACROSS_K;
constexpr int WAVES = OUTLINE_WAVES + TEXTURE_WAVES;
constexpr int LISTED = 8;  // lesions worked on at a time
constexpr float FAR_SIGMAS = 4.0f, RIM_AT = 0.88f, RIM_WIDTH = 0.10f, CORE_WIDTH = 0.12f, SPECK_SCALE = 0.8f, SPECK_WIDTH = 0.4f;
constexpr float SPECK_AT = 0.6f, SPECK_FADE = 0.25f, UNSEEN = -3.0e38f;

// From 0 to 1 as x goes from −1 to 1, smoothly.
__device__ __forceinline__ float step(float x) {
    x = fminf(fmaxf(0.5f * x + 0.5f, 0.0f), 1.0f);
    return x * x * (3.0f - 2.0f * x);
}

// How far beyond the surface a lesion changes anything: its edge, its capsule, its halo.
__device__ __forceinline__ float beyond_mm(const float* row) {
    const float capsule = row[CAPSULE] != 0.0f ? FAR_SIGMAS * row[CAPSULE_MM] : 0.0f, halo = row[HALO] != 0.0f ? row[HALO_MM] : 0.0f;
    return fmaxf(FAR_SIGMAS * row[EDGE], fmaxf(capsule, halo));
}

// What a voxel sees of a lesion: how deep below its surface it lies, in edge widths; its share that is lesion; the change in HU.
struct Seen {
    float depth, held, change;
};

// `way` is how far along the way from the centre to the surface, `surface` how far from that in mm, (dx, dy, dz) the offset from the centre.
__device__ Seen coloured(const float* row, const float4* waves, float way, float surface, float dx, float dy, float dz) {
    if (surface >= beyond_mm(row)) return {UNSEEN, 0.0f, 0.0f};
    const float edge = row[EDGE], held = surface < FAR_SIGMAS * edge ? 0.5f * erfcf(surface / (edge * 1.4142135f)) : 0.0f;
    const float scale = row[TEXTURE_MM], fine = SPECK_SCALE * scale, rim = (way - RIM_AT) / RIM_WIDTH;
    float added = row[BODY] + row[CORE] * (1.0f - step((way - row[CORE_SHARE]) / CORE_WIDTH)) + row[RIM] * expf(-rim * rim);
    added += row[TEXTURE] * texture_at(waves, dx / scale, dy / scale, dz / scale);
    if (row[SPECK] != 0.0f) {
        const float speck = step((texture_at(waves, dx / fine, dy / fine, dz / fine) - row[SPECK_SHARE]) / SPECK_WIDTH);
        added += row[SPECK] * (speck * (1.0f - step((way - SPECK_AT) / SPECK_FADE)));
    }
    const float across = surface / row[CAPSULE_MM], left = fmaxf(1.0f - fmaxf(surface, 0.0f) / row[HALO_MM], 0.0f);
    const float capsule = row[CAPSULE] * expf(-0.5f * across * across), halo = row[HALO] * (left * left) * (1.0f - held);
    return {-surface / edge, held, held * added + capsule + halo};
}

// What a voxel at an offset in mm sees of a lesion.
__device__ Seen seen(const float* row, const float4* waves, float dx, float dy, float dz) {
    const float3 at = in_axes(row, dx, dy, dz);
    const float rho = fmaxf(sqrtf(at.x * at.x + at.y * at.y + at.z * at.z), 1e-6f);
    const float length = rho > 1e-5f ? sqrtf(dx * dx + dy * dy + dz * dz) / rho : row[RADIUS];
    if ((rho - row[REACH]) * length >= beyond_mm(row)) return {UNSEEN, 0.0f, 0.0f};
    const float reach = fminf(radius_at(waves, row[IRREGULARITY], row[LOBULATION], row[SPICULATION], at.x / rho, at.y / rho, at.z / rho), row[REACH]);
    return coloured(row, waves, rho / reach, (rho - reach) * length, dx, dy, dz);
}

// What a voxel that a grown lesion invaded sees of it: what it invaded last is its surface, what it invaded first its middle.
__device__ Seen seen_grown(const float* row, const float4* waves, int time, int stop, float dx, float dy, float dz) {
    const float way = (float)time / (float)(stop + 1);
    return coloured(row, waves, way, row[RADIUS] * (way - 1.0f), dx, dy, dz);
}

// One voxel a thread, 8 × 32 along j and k a block: blocks (i · j, k, samples), which list the lesions that can reach them, eight at a time.
// Bytes: 1 read a voxel, 6 written where numbers and occupancy are wanted, and image and label twice where it changes; operations: 36 waves a voxel in reach of a lesion.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
paint_kernel(void* image, void* label, short* numbers, float* occupancy, const float* centre_vox, const float* lesions, const bool* active,
             const short* times, const short* grown, const short* stops, const short* foreign, const long long* uids,
             unsigned long long seed, int image_kind, int label_kind, long long organ, long long tumor, int slots, int n_i, int n_j, int n_k, float mm_i,
             float mm_j, float mm_k, int origin_i, int origin_j, int origin_k) {
    __shared__ float rows[LISTED][TRAITS], centres[LISTED][3];
    __shared__ float4 waves[LISTED][WAVES];
    __shared__ bool listed[LISTED];
    const int thread = threadIdx.x, across = (n_j + ACROSS_J - 1) / ACROSS_J;
    const int i = blockIdx.x / across, first_j = blockIdx.x % across * ACROSS_J, first_k = blockIdx.y * ACROSS_K;
    const int j = first_j + thread / ACROSS_K, k = first_k + thread % ACROSS_K;
    const long long sample = blockIdx.z;
    const unsigned long long uid = (unsigned long long)uids[sample];
    const long long at = ((sample * n_i + i) * n_j + min(j, n_j - 1)) * n_k + min(k, n_k - 1);  // of a thread beyond the array: what it writes is nothing
    const int grown_number = grown ? grown[at] : 0;
    Seen best = {UNSEEN, 0.0f, 0.0f};
    int number = 0;
    for (int first = 0; first < slots; first += LISTED) {
        const int some = min(LISTED, slots - first);
        if (thread < some) {
            const long long slot = sample * slots + first + thread;
            const float* row = lesions + slot * TRAITS;
            const float far = fmaxf(row[AXES], fmaxf(row[AXES + 1], row[AXES + 2])) * row[REACH] + beyond_mm(row);
            const float x = centre_vox[3 * slot] - (float)origin_i, y = centre_vox[3 * slot + 1] - (float)origin_j, z = centre_vox[3 * slot + 2] - (float)origin_k;
            centres[thread][0] = x, centres[thread][1] = y, centres[thread][2] = z;
            const float gap_j = fmaxf((float)first_j - y, y - (float)(first_j + ACROSS_J - 1)) * mm_j;
            const float gap_k = fmaxf((float)first_k - z, z - (float)(first_k + ACROSS_K - 1)) * mm_k;
            listed[thread] = active[slot] && fabsf((float)i - x) * mm_i < far && gap_j < far && gap_k < far;
        }
        __syncthreads();
        for (int item = thread; item < some * WAVES; item += THREADS)
            if (listed[item / WAVES]) waves[item / WAVES][item % WAVES] = wave_of(seed, uid, first + item / WAVES, item % WAVES);
        for (int item = thread; item < some * TRAITS; item += THREADS) rows[item / TRAITS][item % TRAITS] = lesions[(sample * slots + first) * TRAITS + item];
        __syncthreads();
        for (int entry = 0; entry < some; ++entry) {
            if (!listed[entry]) continue;
            const float* centre = centres[entry];
            const float dx = ((float)i - centre[0]) * mm_i, dy = ((float)j - centre[1]) * mm_j, dz = ((float)k - centre[2]) * mm_k;
            if (grown && grown_number != first + entry + 1) continue;
            const Seen lesion = grown ? seen_grown(rows[entry], waves[entry], times[at], stops[sample * slots + first + entry], dx, dy, dz)
                                      : seen(rows[entry], waves[entry], dx, dy, dz);
            if (lesion.depth > best.depth) best = lesion;
            if (lesion.depth > 0.0f && number == 0) number = first + entry + 1;
        }
        __syncthreads();
    }
    if (j >= n_j || k >= n_k) return;
    const bool inside = read_label(label, at, label_kind) == organ;
    if (numbers) numbers[at] = inside ? (short)number : (short)0, occupancy[at] = inside ? best.held : 0.0f;
    if (!inside) return;
    if (foreign) best.change -= best.held * (0.25f * foreign[at]);
    if (best.change != 0.0f) add_to(image, at, image_kind, best.change);
    if (number) write_label(label, at, label_kind, tumor);
}
