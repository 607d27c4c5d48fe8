// Deformed ellipsoids, evaluated voxel by voxel where they can be: the number of the lowest lesion that holds a voxel.
#include "labels.cuh"
#include "tiles.cuh"

constexpr int THREADS = TILE_J * TILE_K;
constexpr int LISTED = 64;      // lesions that one tile can list: slots are worked on this many at a time
constexpr int CONTROL = 54;     // control values of a lesion: 3 axis pairs × 2 axes × 3 × 3 points
constexpr float INSIDE = 1.0f - 1e-5f;

struct Lesion {
    int corner[3], box[3], spline[3];  // corner: voxel of the array in which its box begins; spline: where an axis' weights stand
    int number;
    float radius[3];
};

// Displacement at lattice point (a, b) of a plane, rounded: the middle value is summed along b first, as the twin does.
__device__ __forceinline__ int displacement(const float* control, float4 a, float4 b) {
    float along[3];
#pragma unroll
    for (int p = 0; p < 3; ++p) along[p] = control[3 * p] * b.x + control[3 * p + 1] * b.y + control[3 * p + 2] * b.z;
    return (int)rintf(a.x * along[0] + a.y * along[1] + a.z * along[2]);
}

// Whether a point of its box lies in a lesion: pulled back through the fields of axes (0, 2), (1, 2) and (0, 1), then tested.
__device__ bool inside(const Lesion& lesion, const float* control, const float4* spline, int x, int y, int z) {
    const float4 *of_x = spline + lesion.spline[0], *of_y = spline + lesion.spline[1], *of_z = spline + lesion.spline[2];
    const int x1 = x + displacement(control + 36, of_x[x], of_z[z]), z1 = z + displacement(control + 45, of_x[x], of_z[z]);
    if (x1 < 0 || x1 >= lesion.box[0] || z1 < 0 || z1 >= lesion.box[2]) return false;
    const int y1 = y + displacement(control + 18, of_y[y], of_z[z1]), z2 = z1 + displacement(control + 27, of_y[y], of_z[z1]);
    if (y1 < 0 || y1 >= lesion.box[1] || z2 < 0 || z2 >= lesion.box[2]) return false;
    const float r = (float)(z2 - lesion.box[2] / 2) / lesion.radius[2], height = INSIDE - r * r;
    if (height <= 0.0f) return false;
    const int x2 = x1 + displacement(control, of_x[x1], of_y[y1]), y2 = y1 + displacement(control + 9, of_x[x1], of_y[y1]);
    if (x2 < 0 || x2 >= lesion.box[0] || y2 < 0 || y2 >= lesion.box[1]) return false;
    const float p = (float)(x2 - lesion.box[0] / 2) / lesion.radius[0], q = (float)(y2 - lesion.box[1] / 2) / lesion.radius[1];
    return p * p + q * q < height;
}

// How far a displacement can reach: `gain` bounds it by its field's largest control value.
__device__ __forceinline__ float farthest(const float* field, float gain) {
    float largest = 0.0f;
    for (int point = 0; point < 9; ++point) largest = fmaxf(largest, fabsf(field[point]));
    return gain * largest;
}

// Whether a lesion can touch the `tile` voxels from `start` on along an axis: its box does, and so does its ellipsoid, grown by how far
// the two fields that move this axis reach; each displacement is rounded.
__device__ __forceinline__ bool touches(const Lesion& lesion, int axis, const float* first, const float* second, float gain, int start, int tile) {
    const int centre = lesion.corner[axis] + lesion.box[axis] / 2, end = start + tile;
    const int far = (int)ceilf(fminf(lesion.radius[axis] + farthest(first, gain) + farthest(second, gain) + 1.0f, 1e6f));
    return end > max(lesion.corner[axis], centre - far) && start <= min(lesion.corner[axis] + lesion.box[axis] - 1, centre + far);
}

// One tile of one sample a block: blocks (k tiles, i tiles · j tiles, samples); a thread walks the tile's eight voxels along i. `boxes`
// holds, a slot: its box and where its axes' spline weights stand. `touched` is zero before.
// Bytes: 1 read, 2 written a voxel; operations: at most 6 displacements of 24, for each listed lesion until one holds the voxel.
extern "C" __global__ void __launch_bounds__(THREADS, 4)
instance_map_kernel(short* instances, unsigned char* touched, const long long* centre_vox, const float* radii_vox, const float* elastic_vox, const bool* active,
                    const int* boxes, const float4* spline, const void* label, int kind, long long organ, float gain, int slots, int n_i, int n_j, int n_k,
                    int origin_i, int origin_j, int origin_k) {
    __shared__ Lesion lesions[LISTED];
    __shared__ float control[LISTED][CONTROL];
    __shared__ bool listed[LISTED];
    const int thread = threadIdx.x, tiles_j = (n_j + TILE_J - 1) / TILE_J, tiles_i = (n_i + TILE_I - 1) / TILE_I;
    const int tile_i = blockIdx.y / tiles_j, tile_j = blockIdx.y % tiles_j;
    const int start_i = tile_i * TILE_I, start_j = tile_j * TILE_J, start_k = blockIdx.x * TILE_K;
    const int j = start_j + thread / TILE_K, k = start_k + thread % TILE_K;
    const long long sample = blockIdx.z, row = (sample * n_i * n_j + j) * n_k + k;
    int number[TILE_I] = {};
    for (int first = 0; first < slots; first += LISTED) {
        const int some = min(LISTED, slots - first);
        for (int item = thread; item < some * CONTROL; item += THREADS)
            control[item / CONTROL][item % CONTROL] = elastic_vox[(sample * slots + first) * CONTROL + item];
        __syncthreads();
        if (thread < some) {
            const long long slot = sample * slots + first + thread;
            Lesion& lesion = lesions[thread];
            const float* field = control[thread];
#pragma unroll
            for (int axis = 0; axis < 3; ++axis) {
                const int origin = axis == 0 ? origin_i : axis == 1 ? origin_j : origin_k;
                lesion.box[axis] = boxes[6 * (first + thread) + axis];
                lesion.spline[axis] = boxes[6 * (first + thread) + 3 + axis];
                lesion.corner[axis] = (int)(centre_vox[3 * slot + axis] - origin) - lesion.box[axis] / 2;
                lesion.radius[axis] = fmaxf(radii_vox[3 * slot + axis], 1e-3f);
            }
            lesion.number = first + thread + 1;
            listed[thread] = active[slot] && touches(lesion, 0, field + 36, field, gain, start_i, TILE_I) &&
                             touches(lesion, 1, field + 18, field + 9, gain, start_j, TILE_J) &&
                             touches(lesion, 2, field + 45, field + 27, gain, start_k, TILE_K);
        }
        __syncthreads();
        for (int entry = 0; entry < some; ++entry) {
            if (!listed[entry] || j >= n_j || k >= n_k) continue;
            const Lesion& lesion = lesions[entry];
            const int y = j - lesion.corner[1], z = k - lesion.corner[2];
            if (y < 0 || y >= lesion.box[1] || z < 0 || z >= lesion.box[2]) continue;
#pragma unroll
            for (int deep = 0; deep < TILE_I; ++deep) {
                const int x = start_i + deep - lesion.corner[0];
                if (number[deep] == 0 && x >= 0 && x < lesion.box[0] && inside(lesion, control[entry], spline, x, y, z)) number[deep] = lesion.number;
            }
        }
        __syncthreads();
    }
    bool any = false;
    if (j < n_j && k < n_k)
#pragma unroll
        for (int deep = 0; deep < TILE_I; ++deep) {
            const int i = start_i + deep;
            if (i >= n_i) break;
            const long long at = row + (long long)i * n_j * n_k;
            const bool lesion = number[deep] && read_label(label, at, kind) == organ;
            instances[at] = lesion ? (short)number[deep] : (short)0;
            any |= lesion;
        }
    if (__syncthreads_or(any) && thread == 0) touched[((sample * tiles_i + tile_i) * tiles_j + tile_j) * gridDim.x + blockIdx.x] = 1;
}
