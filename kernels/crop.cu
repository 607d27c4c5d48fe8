// Patches out of packed volumes: int16 HU to float32, uint8 label as it is; outside its volume a patch is air, -1024 HU and 0.

constexpr int THREADS = 256;
constexpr int EACH = 8;  // voxels a thread
constexpr short AIR_HU = -1024;

// Eight voxels in a row that may begin anywhere: the two aligned words of 16 (8) bytes that hold them, shifted. Buffers hold whole words.
__device__ __forceinline__ void read_eight(const short* image, const unsigned char* label, long long from, short* hu, unsigned char* number) {
    const long long word = from / EACH;
    const int skip = (int)(from % EACH), halves = skip / 4, bits = 16 * (skip % 4);
    const ulonglong2 first = ((const ulonglong2*)image)[word], second = skip ? ((const ulonglong2*)image)[word + 1] : first;
    const unsigned long long a = halves ? first.y : first.x, b = halves ? second.x : first.y, c = halves ? second.y : second.x;
    const unsigned long long low = bits ? a >> bits | b << (64 - bits) : a, high = bits ? b >> bits | c << (64 - bits) : b;
    const unsigned long long* eights = (const unsigned long long*)label;
    const unsigned long long numbers = skip ? eights[word] >> (8 * skip) | eights[word + 1] << (64 - 8 * skip) : eights[word];
#pragma unroll
    for (int each = 0; each < EACH; ++each) {
        hu[each] = (short)((each < 4 ? low : high) >> (16 * (each % 4)));
        number[each] = (unsigned char)(numbers >> (8 * each));
    }
}

// Eight voxels in a row of a patch a thread; stores of 16 and 8 bytes where `wide` says that rows are whole eights.
// Bytes: 2 + 1 read and 4 + 1 written a voxel, up to twice the reads where a row begins between words (they come from cache); operations: 5.
extern "C" __global__ void __launch_bounds__(THREADS)
crop_kernel(float* image_out, unsigned char* label_out, const short* image, const unsigned char* label, const long long* offset, const int* shape,
            const long long* place, int size_i, int size_j, int size_k, int wide) {
    const long long item = blockIdx.x * (long long)THREADS + threadIdx.x, sample = blockIdx.y, rows = (long long)size_i * size_j;
    const int pieces = (size_k + EACH - 1) / EACH;
    if (item >= rows * pieces) return;
    const long long row = item / pieces;
    const int start = (int)(item % pieces) * EACH, there = min(EACH, size_k - start);
    const long long which = place[4 * sample];
    const int* whole = shape + 3 * which;
    const long long i = place[4 * sample + 1] + row / size_j, j = place[4 * sample + 2] + row % size_j, k = place[4 * sample + 3] + start;
    const bool inside = i >= 0 && i < whole[0] && j >= 0 && j < whole[1];
    const long long from = offset[which] + (i * whole[1] + j) * whole[2] + k;
    short hu[EACH];
    unsigned char number[EACH];
    if (inside && k >= 0 && k + EACH <= whole[2]) {
        read_eight(image, label, from, hu, number);
    } else {
#pragma unroll
        for (int each = 0; each < EACH; ++each) {
            const bool held = inside && k + each >= 0 && k + each < whole[2];
            hu[each] = held ? image[from + each] : AIR_HU;
            number[each] = held ? label[from + each] : 0;
        }
    }
    const long long to = (sample * rows + row) * size_k + start;
    if (wide) {
        *(float4*)(image_out + to) = make_float4(hu[0], hu[1], hu[2], hu[3]);
        *(float4*)(image_out + to + 4) = make_float4(hu[4], hu[5], hu[6], hu[7]);
        *(uchar4*)(label_out + to) = make_uchar4(number[0], number[1], number[2], number[3]);
        *(uchar4*)(label_out + to + 4) = make_uchar4(number[4], number[5], number[6], number[7]);
        return;
    }
#pragma unroll
    for (int each = 0; each < EACH; ++each)
        if (each < there) image_out[to + each] = hu[each], label_out[to + each] = number[each];
}
