// Random words as a kernel of its own: what the other families draw in place, laid open to test and to measure.
#include "rng.cuh"

// Eight 16-bit words of one counter a thread. Bytes: 8 read, 32 written a counter; operations: ten rounds of 2 wide products, some 90 in all.
extern "C" __global__ void __launch_bounds__(256)
halfwords_kernel(int* out, const long long* uid, const long long* index, unsigned long long seed, int purpose, long long samples, long long n) {
    const long long place = blockIdx.x * (long long)blockDim.x + threadIdx.x, all = samples * n;
    if (place >= all) return;
    const Words words = philox(seed, uid[place / n], purpose, 0, (unsigned)index[place]);
#pragma unroll
    for (int which = 0; which < 8; ++which) out[which * all + place] = halfword(words, which);
}
